/* SPDX-License-Identifier: Apache-2.0 */
/* Protected mode: software interrupts, IRET, LAPIC self-IPI and PIC stub, INTO, INT3. */
#define MODE 32
#include "runtime.h"
main:
    int $0x40
    cmpl $1, irq_count + 8 * 0x40
    CHECK(e)
    movl $0x1ff, LAPIC + 0xf0
    movl $0x40051, LAPIC + 0x300    /* self, fixed */
    sti
    mov $1000000, %ecx
1:  cmpl $1, irq_count + 8 * 0x51
    je 2f
    pause
    loop 1b
    FAIL
2:  movl $0x700, LAPIC + 0x350      /* LINT0: ExtINT */
    movl $0x21, DEV_EXTINT
    mov $1000000, %ecx
1:  cmpl $1, irq_count + 8 * 0x21
    je 2f
    pause
    loop 1b
    FAIL
2:  cli
    movl $1f, resume_rip
    int3
1:  cmpl $3, last_vector
    CHECK(e)
    cmpl $1b, last_rip
    CHECK(e)
    PASS
