/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts from devices: MSI, MSI through an eventfd, the PIC's ExtINT, level-triggered with EOI reports, HLT wake. */
#define MODE 64
#include "runtime.h"
#define WAIT_FOR(vector, count)                          \
    mov $20000000, %ecx; 96: cmpq $count, irq_count + 8 * vector; je 95f; \
    pause; dec %ecx; jnz 96b; FAIL; 95:
main:
    call enable_lapic
    mov $DEV, %ebx
    sti
    movl $LAPIC, 0x110(%rbx)
    movl $0x60, 0x118(%rbx)
    WAIT_FOR(0x60, 1)
    movl $0x61, 0x158(%rbx)
    WAIT_FOR(0x61, 1)
    movl $0x62, 0x158(%rbx)         /* the route changes */
    WAIT_FOR(0x62, 1)
    /* ExtINT */
    mov $LAPIC, %eax
    movl $0x700, 0x350(%rax)
    movl $0x23, 0x128(%rbx)
    WAIT_FOR(0x23, 1)
    cli
    movl $0x24, 0x128(%rbx)         /* held until STI */
    mov $1000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    cmpq $0, irq_count + 8 * 0x24
    CHECK(e)
    sti
    WAIT_FOR(0x24, 1)
    /* level-triggered: the engine reports each EOI */
    movl $0x63, 0x138(%rbx)
    WAIT_FOR(0x63, 1)
    mov $1000000, %ecx
1:  cmpl $1, 0x140(%rbx)
    je 2f
    dec %ecx
    jnz 1b
    FAIL
2:  /* HLT is left for an interrupt of another thread */
    movl $0x64, 0x120(%rbx)
1:  cli
    cmpq $1, irq_count + 8 * 0x64
    je 2f
    sti
    hlt
    jmp 1b
2:  movl $0x25, 0x128(%rbx)
1:  cli
    cmpq $1, irq_count + 8 * 0x25
    je 2f
    sti
    hlt
    jmp 1b
2:  PASS
