/* SPDX-License-Identifier: Apache-2.0 */
/* Four processors: INIT and SIPI, locked counters, a spinlock, IPIs both ways, HLT wake by IPI, x2APIC IDs. */
#define MODE 64
#define SMP_GUEST
#include "runtime.h"
#define CPUS 4
#define ROUNDS 200
main:
    call enable_lapic
    mov $LAPIC, %ebx
    movl $0xc4500, 0x300(%rbx)      /* INIT, all but self */
    mov $10000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    movl $0xc4608, 0x300(%rbx)      /* SIPI to 8000: the image's start */
    mov $200000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    movl $0xc4608, 0x300(%rbx)      /* a second SIPI has no effect */
1:  pause
    cmpl $CPUS - 1, ready
    jne 1b
    cmpl $CPUS, processors_started
    CHECK(e)
    movl $1, go
    call work
1:  pause
    cmpl $CPUS, done
    jne 1b
    cmpq $CPUS * ROUNDS, counter
    CHECK(e)
    cmpq $CPUS * ROUNDS, guarded
    CHECK(e)
    cmpl $0xf, ids
    CHECK(e)
    /* wake them out of HLT one by one; each answers with an IPI */
    sti
    mov $1, %r12d
1:  mov %r12d, %eax
    shl $24, %eax
    mov %eax, 0x310(%rbx)
    movl $0x4050, 0x300(%rbx)
    mov $100000000, %ecx
2:  cmpq %r12, irq_count + 8 * 0x51
    je 3f
    pause
    dec %ecx
    jnz 2b
    FAIL
3:  inc %r12d
    cmp $CPUS, %r12d
    jne 1b
    cmpq $CPUS - 1, irq_count + 8 * 0x50
    CHECK(e)
    PASS

ap_main:
    call enable_lapic
    lock incl ready
1:  pause
    cmpl $0, go
    je 1b
    call work
    sti
1:  hlt
    mov $LAPIC, %ebx
    movl $0, 0x310(%rbx)
    movl $0x4051, 0x300(%rbx)       /* to APIC ID 0 */
    jmp 1b

work:
    push %rbx
    mov $1, %eax
    cpuid
    shr $24, %ebx
    lock bts %ebx, ids
    pop %rbx
    mov $ROUNDS, %ecx
1:  lock incq counter
2:  mov $1, %eax
    xchg %eax, spinlock
    test %eax, %eax
    jz 3f
    pause
    jmp 2b
3:  mov guarded, %rax
    inc %rax
    mov %rax, guarded
    movl $0, spinlock
    dec %ecx
    jnz 1b
    lock incl done
    ret
    .balign 64
ready: .long 0
go: .long 0
done: .long 0
ids: .long 0
    .balign 64
counter: .quad 0
    .balign 64
spinlock: .quad 0
    .balign 64
guarded: .quad 0
