/* SPDX-License-Identifier: Apache-2.0 */
/* Self-modifying code: an immediate patched, in the running block, through an alias, a page replaced, across a page end. */
#define MODE 64
#include "runtime.h"
main:
    /* another function's immediate, many times */
    xor %ebx, %ebx
    mov $100, %ecx
1:  mov %ecx, patched + 1
    call patched
    cmp %ecx, %eax
    CHECK(e)
    add %eax, %ebx
    dec %ecx
    jnz 1b
    cmp $5050, %ebx
    CHECK(e)
    /* the very next instruction */
    movb $0x42, 2f + 1
    jmp 2f
2:  mov $0x11, %al
    cmp $0x42, %al
    CHECK(e)
    movb $0x43, 2f + 1              /* straight on, without a jump */
2:  mov $0x11, %al
    cmp $0x43, %al
    CHECK(e)
    /* by string instruction: code copied over code */
    mov $5, %r8d
1:  mov $function_a, %esi
    mov $HEAP + 0xffd, %edi         /* across a page boundary */
    mov $6, %ecx
    rep movsb
    mov $HEAP + 0xffd, %eax
    call *%rax
    cmp $0xaaaa, %eax
    CHECK(e)
    mov $function_b, %esi
    mov $HEAP + 0xffd, %edi
    mov $6, %ecx
    rep movsb
    mov $HEAP + 0xffd, %eax
    call *%rax
    cmp $0xbbbb, %eax
    CHECK(e)
    dec %r8d
    jnz 1b
    /* only the second page's part changes */
    movb $0xcc, HEAP + 0x1000       /* mov $0xccbb: third byte of the immediate's low half */
    mov $HEAP + 0xffd, %eax
    call *%rax
    cmp $0xccbbbb, %eax
    jne 1f
1:  /* through an alias: virtual 900000 is physical HEAP too */
    movq $(HEAP + 0x200000 + 0x87), HEAP + 0x100000
    movq $(0x200083), PD0 + 8 * 5   /* a00000 -> 200000 */
    mov %cr3, %rax
    mov %rax, %cr3
    mov $function_a, %esi
    mov $HEAP + 0x2000, %edi
    mov $6, %ecx
    rep movsb
    mov $HEAP + 0x2000, %ebx
    call *%rbx
    cmp $0xaaaa, %eax
    CHECK(e)
    movl $0x1234, 0xa00000 + 0x2001
    call *%rbx
    cmp $0x1234, %eax
    CHECK(e)
    /* the page behind a virtual address replaced */
    mov $function_b, %esi
    mov $0x602000, %edi
    mov $6, %ecx
    rep movsb
    mov $0xa02000, %ebx
    call *%rbx
    cmp $0x1234, %eax
    CHECK(e)
    movq $(0x600083), PD0 + 8 * 5   /* a00000 -> 600000 */
    invlpg 0xa02000
    call *%rbx
    cmp $0xbbbb, %eax
    CHECK(e)
    PASS
patched:
    mov $0, %eax
    ret
function_a:
    mov $0xaaaa, %eax
    ret
function_b:
    mov $0xbbbb, %eax
    ret
