/* SPDX-License-Identifier: Apache-2.0 */
/* NMI: through the engine's call, out of HLT with interrupts off, held until IRET. */
#define MODE 64
#include "runtime.h"
#define WAIT_NMI(count) mov $20000000, %ecx; 96: cmpq $count, irq_count + 16; je 95f; pause; dec %ecx; jnz 96b; FAIL; 95:
main:
    call enable_lapic
    mov $DEV, %ebx
    movl $1, 0x130(%rbx)
    WAIT_NMI(1)
    mov $LAPIC, %eax
    movl $0x40400, 0x300(%rax)      /* self, NMI: KVM and hardware allow it by destination */
    movl $10, 0x160(%rbx)
1:  hlt
    cmpq $2, irq_count + 16
    jb 1b
    PASS
