/* SPDX-License-Identifier: Apache-2.0 */
/* Memory-mapped device accesses: every size, sign and zero extension, read-modify-write, strings, nobody's addresses. */
#define MODE 64
#include "runtime.h"
main:
    mov $DEV, %ebx
    mov $0x1122334455667788, %rax
    mov %rax, (%rbx)
    cmpq $8, 0x100(%rbx)
    CHECK(e)
    mov (%rbx), %rcx
    cmp %rax, %rcx
    CHECK(e)
    cmpb $0x88, (%rbx)
    CHECK(e)
    cmpb $1, 0x100(%rbx)
    CHECK(e)
    cmpw $0x6677, 1(%rbx)
    CHECK(e)
    cmpl $0x11223344, 4(%rbx)
    CHECK(e)
    movl $0xdeadbeef, 8(%rbx)
    cmpl $4, 0x100(%rbx)
    CHECK(e)
    movw $0x8001, 12(%rbx)
    movb $0x80, 14(%rbx)
    movzwl 12(%rbx), %eax
    cmp $0x8001, %eax
    CHECK(e)
    movswl 12(%rbx), %eax
    cmp $0xffff8001, %eax
    CHECK(e)
    movsbl 14(%rbx), %eax
    cmp $0xffffff80, %eax
    CHECK(e)
    movzbl 14(%rbx), %eax
    cmp $0x80, %eax
    CHECK(e)
    movslq 8(%rbx), %rax
    cmp $0xffffffffdeadbeef, %rax
    CHECK(e)
    /* read-modify-write */
    movl $5, 16(%rbx)
    addl $7, 16(%rbx)
    cmpl $12, 16(%rbx)
    CHECK(e)
    orb $0x10, 16(%rbx)
    lock incl 16(%rbx)
    cmpl $0x1d, 16(%rbx)
    CHECK(e)
    mov $3, %eax
    xchg %eax, 16(%rbx)
    cmp $0x1d, %eax
    CHECK(e)
    mov $4, %eax
    lock xadd %eax, 16(%rbx)
    cmp $3, %eax
    CHECK(e)
    cmpl $7, 16(%rbx)
    CHECK(e)
    mov $7, %eax
    mov $0x99, %ecx
    lock cmpxchg %ecx, 16(%rbx)
    CHECK(e)
    cmpl $0x99, 16(%rbx)
    CHECK(e)
    btsl $8, 16(%rbx)
    CHECK(nc)
    cmpl $0x199, 16(%rbx)
    CHECK(e)
    negl 16(%rbx)
    notl 16(%rbx)
    cmpl $0x198, 16(%rbx)
    CHECK(e)
    push %rbx
    push 16(%rbx)
    pop %rax
    cmp $0x198, %eax
    CHECK(e)
    pop %rbx
    /* strings to and from the device */
    mov $pattern, %esi
    lea 0x40(%rbx), %edi
    mov $4, %ecx
    rep movsq
    lea 0x40(%rbx), %esi
    mov $HEAP, %edi
    mov $32, %ecx
    rep movsb
    mov $pattern, %esi
    mov $HEAP, %edi
    mov $32, %ecx
    repe cmpsb
    CHECK(e)
    lea 0x60(%rbx), %edi
    mov $0xa5a5a5a5, %eax
    mov $4, %ecx
    rep stosl
    cmpl $0xa5a5a5a5, 0x6c(%rbx)
    CHECK(e)
    lea 0x40(%rbx), %esi
    lodsl
    cmp pattern, %eax
    CHECK(e)
    /* nobody's addresses read as ones and swallow writes */
    mov $0xc8000000, %edx
    movl $1, (%rdx)
    cmpl $-1, (%rdx)
    CHECK(e)
    movzbl 3(%rdx), %eax
    cmp $0xff, %eax
    CHECK(e)
    /* the doorbell */
    movl $1, 0x148(%rbx)
    movl $1, 0x148(%rbx)
    cmpl $2, 0x150(%rbx)
    CHECK(e)
    PASS
    .balign 8
pattern: .quad 0x0123456789abcdef, 0x1111111122222222, 0x3333333344444444, 0x5555555566666666
