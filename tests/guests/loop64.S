/* SPDX-License-Identifier: Apache-2.0 */
/* A long calculation in registers and memory (state64: x87 and SSE too) with periodic timer interrupts, for stopping in the middle. */
#define MODE 64
#include "runtime.h"
#define STEPS 0x7ff0 /* u32 just below the image: how long; the harness writes it */
#define state HEAP + 0x1000 /* away from code: this is no test of self-modification */
main:
    movq $1, state
    call enable_lapic
    mov $LAPIC, %eax
    movl $0xb, 0x3e0(%rax)
    movl $0x20041, 0x320(%rax)
    movl $500000, 0x380(%rax)
#ifdef WITH_SSE
    movq $1, %rax
    movq %rax, %xmm7
    fninit
    fldpi
#endif
    mov $0xc0000102, %ecx
    mov $0x5a5a5a5a, %eax
    mov $0xffff8888, %edx
    wrmsr
    sti
    mov STEPS, %r15d
    mov $1, %r8
    mov $0x9e3779b97f4a7c15, %r9
    xor %r10d, %r10d
1:  /* the same recurrence in registers and in memory */
    imul %r9, %r8
    inc %r8
    mov state, %rax
    imul %r9, %rax
    inc %rax
    mov %rax, state
    cmp %rax, %r8
    CHECK(e)
    rol $7, %r10
    xor %r8, %r10
    dec %r15d
    jnz 1b
1:  cmpq $0, irq_count + 8 * 0x41   /* at least one, however fast we are */
    jne 2f
    hlt
    jmp 1b
2:  cli
#ifdef WITH_SSE
    movq %xmm7, %rax
    cmp $1, %rax
    CHECK(e)
    fldpi
    fcomip %st(1), %st
    CHECK(e)
#endif
    mov $0xc0000102, %ecx
    rdmsr
    cmp $0x5a5a5a5a, %eax
    CHECK(e)
    cmp $0xffff8888, %edx
    CHECK(e)
    cmpq $0, irq_count + 8 * 0x41
    CHECK(ne)
    mov $LAPIC, %eax
    cmpl $0x20041, 0x320(%rax)
    CHECK(e)
    /* print the checksum: the harness compares it between runs */
    mov $16, %ecx
1:  rol $4, %r10
    mov %r10d, %eax
    and $15, %eax
    movb digits(%rax), %al
    out %al, $DEBUG_PORT
    dec %ecx
    jnz 1b
    PASS
digits: .ascii "0123456789abcdef"
