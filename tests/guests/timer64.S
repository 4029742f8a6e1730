/* SPDX-License-Identifier: Apache-2.0 */
/* The LAPIC timer: one-shot, periodic, TSC deadline; HLT wakes; TPR holds interrupts back. */
#define MODE 64
#include "runtime.h"
main:
    call enable_lapic
    mov $LAPIC, %ebx
    movl $0xb, 0x3e0(%rbx)          /* divide by 1 */
    /* one-shot: HLT sleeps until it fires */
    movl $0x40, 0x320(%rbx)
    movl $1000000, 0x380(%rbx)
    sti
1:  hlt
    cmpq $0, irq_count + 8 * 0x40
    je 1b
    cli
    cmpl $0, 0x390(%rbx)
    CHECK(e)
    /* periodic */
    movl $0x20041, 0x320(%rbx)
    movl $1000000, 0x380(%rbx)
1:  sti
    hlt
    cli
    cmpq $5, irq_count + 8 * 0x41
    jb 1b
    movl $0, 0x380(%rbx)
    movl $0x10041, 0x320(%rbx)
    cmpq $1, irq_count + 8 * 0x40
    CHECK(e)
    /* TSC deadline */
    mov $1, %eax
    cpuid
    bt $24, %ecx
    jnc 2f
    mov $LAPIC, %ebx
    movl $0x40042, 0x320(%rbx)
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    add $2000000, %rax
    mov %rax, %rdx
    shr $32, %rdx
    mov $0x6e0, %ecx
    wrmsr
1:  sti
    hlt
    cli
    cmpq $0, irq_count + 8 * 0x42
    je 1b
    mov $0x6e0, %ecx
    rdmsr
    or %edx, %eax
    CHECK(z)
2:  /* TPR */
    mov $LAPIC, %ebx
    mov $5, %eax
    mov %rax, %cr8
    cmpl $0x50, 0x80(%rbx)
    CHECK(e)
    movl $0x40043, 0x300(%rbx)      /* self-IPI 43, below the TPR */
    sti
    mov $1000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    cmpq $0, irq_count + 8 * 0x43
    CHECK(e)
    btl $3, 0x220(%rbx)             /* it waits in the IRR */
    CHECK(c)
    xor %eax, %eax
    mov %rax, %cr8
    mov $1000000, %ecx
1:  cmpq $1, irq_count + 8 * 0x43
    je 2f
    pause
    dec %ecx
    jnz 1b
    FAIL
2:  cli
    PASS
