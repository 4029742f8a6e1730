/* SPDX-License-Identifier: Apache-2.0 */
/* Page faults and their error codes: P, W, U, RSVD, I; WP, NX, SMEP, SMAP; accessed and dirty bits; INVLPG; aliases. */
#define MODE 64
#include "runtime.h"
#define PT (HEAP + 0x1000)          /* maps 800000-9fffff by 4 KiB pages */
#define PAGE 0x800000
#define BACKING 0x400000
main:
    mov $PT, %edi
    mov $(BACKING + 3), %eax
    mov $512, %ecx
1:  mov %rax, (%rdi)
    add $8, %edi
    add $0x1000, %eax
    dec %ecx
    jnz 1b
    movq $(PT + 7), PD0 + 8 * 4
    mov %cr3, %rax
    mov %rax, %cr3
    /* accessed, then dirty */
    movl PAGE, %eax
    mov PT, %rax
    and $0x60, %eax
    cmp $0x20, %eax
    CHECK(e)
    movl $0x12345678, PAGE
    mov PT, %rax
    and $0x60, %eax
    cmp $0x60, %eax
    CHECK(e)
    cmpl $0x12345678, BACKING
    CHECK(e)
    /* read-only: a fault only with WP */
    andb $~2, PT + 8
    invlpg PAGE + 0x1000
    movl PAGE + 0x1000, %eax
    EXPECT(14, 3, movl %eax, PAGE + 0x1000)
    cmpq $PAGE + 0x1000, last_cr2
    CHECK(e)
    EXPECT(14, 3, lock incl PAGE + 0x1004)
    mov %cr0, %rax
    btr $16, %rax
    mov %rax, %cr0
    movl $7, PAGE + 0x1000
    bts $16, %rax
    mov %rax, %cr0
    EXPECT(14, 3, movl %eax, PAGE + 0x1000)
    /* not present; a write across the boundary into it changes nothing */
    movl $0, BACKING + 0x1ffc
    orb $2, PT + 8
    invlpg PAGE + 0x1000
    movq $0, PT + 16
    invlpg PAGE + 0x2000
    mov $-1, %rax
    EXPECT(14, 2, mov %rax, PAGE + 0x1ffc)
    cmpq $PAGE + 0x2000, last_cr2
    CHECK(e)
    cmpl $0, BACKING + 0x1ffc
    CHECK(e)
    /* NX */
    movb $0xc3, BACKING + 0x3000    /* ret */
    mov $PAGE + 0x3000, %ebx
    call *%rbx
    btsq $63, PT + 24
    invlpg PAGE + 0x3000
    mov %rsp, %rbp
    movq $1f, resume_rip
    call *%rbx
    FAIL
1:  mov %rbp, %rsp
    cmpq $14, last_vector
    CHECK(e)
    cmpq $0x11, last_error
    CHECK(e)
    cmp %rbx, last_rip
    CHECK(e)
    btrq $63, PT + 24
    invlpg PAGE + 0x3000
    /* reserved bit 51 (above any MAXPHYADDR here) */
    btsq $51, PT + 32
    invlpg PAGE + 0x4000
    EXPECT(14, 9, movl PAGE + 0x4000, %eax)
    EXPECT(14, 0xb, movl %eax, PAGE + 0x4000)
    /* a page remapped: INVLPG makes it seen */
    movl $1, BACKING + 0x5000
    movl $2, BACKING + 0x6000
    cmpl $1, PAGE + 0x5000
    CHECK(e)
    movq $(BACKING + 0x6003), PT + 40
    invlpg PAGE + 0x5000
    cmpl $2, PAGE + 0x5000
    CHECK(e)
    /* SMAP, SMEP: pages of the user */
    orq $4, PML4
    orq $4, PDPT
    orq $4, PT + 56
    orq $4, PD0 + 8 * 4
    mov %cr3, %rax
    mov %rax, %cr3
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov %ebx, %r15d
    bt $7, %r15d
    jnc 1f
    mov %cr4, %rax
    bts $20, %rax
    mov %rax, %cr4
    movb $0xc3, BACKING + 0x7000
    mov $PAGE + 0x7000, %ebx
    mov %rsp, %rbp
    movq $2f, resume_rip
    call *%rbx
    FAIL
2:  mov %rbp, %rsp
    cmpq $14, last_vector
    CHECK(e)
    cmpq $0x11, last_error
    CHECK(e)
    mov %cr4, %rax
    btr $20, %rax
    mov %rax, %cr4
1:  bt $20, %r15d
    jnc 1f
    movl PAGE + 0x7000, %eax
    mov %cr4, %rax
    bts $21, %rax
    mov %rax, %cr4
    EXPECT(14, 1, movl PAGE + 0x7000, %eax)
    stac
    movl PAGE + 0x7000, %eax
    clac
    EXPECT(14, 3, movl %eax, PAGE + 0x7000)
    mov %cr4, %rax
    btr $21, %rax
    mov %rax, %cr4
1:  PASS
