/* SPDX-License-Identifier: Apache-2.0 */
/* INT, INT3, single step and IRETQ in long mode. */
#define MODE 64
#include "runtime.h"
main:
    mov %rsp, %rbp
    stc
    int $0x40
    CHECK(c)
    cmpq $1, irq_count + 8 * 0x40
    CHECK(e)
    cmp %rsp, %rbp
    CHECK(e)
    movq $1f, resume_rip
    int3
1:  cmpq $3, last_vector
    CHECK(e)
    cmpq $1b, last_rip
    CHECK(e)
    /* single step: #DB after the instruction that follows POPF */
    movq $2f, resume_rip
    pushfq
    orl $0x100, (%rsp)
    popfq
    nop
1:  nop
2:  pushfq
    andl $~0x100, (%rsp)
    popfq
    cmpq $1, last_vector
    CHECK(e)
    cmpq $1b, last_rip
    CHECK(e)
    mov %dr6, %rax
    bt $14, %rax
    CHECK(c)
    /* IRETQ to another stack with other flags */
    mov %rsp, %rbp
    pushq $KDATA
    lea -0x100(%rbp), %rax
    push %rax
    pushq $0x8d7                    /* OF SF ZF AF PF CF */
    pushq $KCODE64
    pushq $1f
    iretq
    FAIL
1:  CHECK(o)
    CHECK(c)
    lea 0x100(%rsp), %rax
    cmp %rax, %rbp
    CHECK(e)
    mov %rbp, %rsp
    PASS
