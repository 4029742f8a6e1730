/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions in long mode: vectors, error codes, the whole frame, IST. Handlers return without IRET. */
#define MODE 64
#include "runtime.h"
main:
    mov $message, %esi
    call puts
    mov %rsp, %rbp
    EXPECT(6, 0, ud2)
    cmp %rbp, last_rsp
    CHECK(e)
    cmpq $KCODE64, last_cs
    CHECK(e)
    cmpq $KDATA, last_ss
    CHECK(e)
    /* the frame is aligned to 16 bytes whatever RSP was */
    sub $3, %rsp
    EXPECT(6, 0, ud2)
    lea 3(%rsp), %rax
    cmp %rax, %rbp
    CHECK(e)
    mov handler_rsp, %rax
    and $15, %eax
    CHECK(z)
    mov %rbp, %rsp
    xor %ecx, %ecx
    mov $1, %eax
    cltd
    EXPECT(0, 0, div %ecx)
    mov $0x8000000000000000, %rax
    cqto
    mov $-1, %rcx
    EXPECT(0, 0, idiv %rcx)
    mov $0x1230, %eax
    EXPECT(13, 0x1230, mov %eax, %ds)
    mov $NOT_PRESENT_SELECTOR, %eax
    EXPECT(11, NOT_PRESENT_SELECTOR, mov %eax, %es)
    mov $0x8000000000000000, %rax
    EXPECT(13, 0, movb (%rax), %cl)
    mov %rax, %rbx
    mov %rsp, %rbp
    EXPECT(13, 0, jmp *%rbx)
    mov $0x12345, %ecx
    EXPECT(13, 0, rdmsr)
    EXPECT(6, 0, .byte 0x06)        /* push %es: gone in 64-bit mode */
    /* CR8 and CR4 reserved bits */
    mov $0x10, %eax
    EXPECT(13, 0, mov %rax, %cr8)
    mov %cr4, %rax
    bts $63, %rax
    EXPECT(13, 0, mov %rax, %cr4)
    /* page fault: not present, above what is mapped */
    mov $0x100000000, %rbx
    EXPECT(14, 0, movl (%rbx), %eax)
    cmp %rbx, last_cr2
    CHECK(e)
    EXPECT(14, 2, movl %eax, 8(%rbx))
    lea 8(%rbx), %rax
    cmp %rax, last_cr2
    CHECK(e)
    /* IST: #UD on stack 1 */
    movb $1, IDT + 6 * 16 + 4
    EXPECT(6, 0, ud2)
    mov handler_rsp, %rax
    cmp $IST1_TOP - 64, %rax
    CHECK(e)
    PASS
message: .asciz "exceptions\n"
