/* SPDX-License-Identifier: Apache-2.0 */
/* Times accesses that leave the guest: port reads, device memory reads, doorbell writes (ioeventfd). For each prints
 * "<TSC ticks in hex>\n" for as many accesses as the argument says. Runs in the harness and, with a reset vector that
 * jumps to 0x8000, in QEMU's q35 with the HPET and a pci-testdev, whose eventfd test is the doorbell. */
#define MODE 32
#include "runtime.h"
#define COUNT 0x7ff0
#define HPET 0xfed00000
#define TESTDEV_BAR 0xe0000000
main:
    /* the doorbell: ours, or QEMU's test device if PCI has one (1b36:0005) */
    movl $DEV_BELL, bell
    movl $1, bell_value
    mov $0x80000000, %ebx
1:  mov %ebx, %eax
    mov $0xcf8, %edx
    outl %eax, %dx
    mov $0xcfc, %edx
    inl %dx, %eax
    cmp $0x00051b36, %eax
    je 2f
    add $0x800, %ebx
    cmp $0x80010000, %ebx
    jb 1b
    jmp measure
2:  lea 0x10(%ebx), %eax            /* BAR 0 */
    mov $0xcf8, %edx
    outl %eax, %dx
    mov $0xcfc, %edx
    mov $TESTDEV_BAR, %eax
    outl %eax, %dx
    lea 4(%ebx), %eax               /* memory space on */
    mov $0xcf8, %edx
    outl %eax, %dx
    mov $0xcfc, %edx
    mov $2, %eax
    outw %ax, %dx
    movb $2, TESTDEV_BAR            /* test 2: memory, eventfd with a matching value */
    mov TESTDEV_BAR + 4, %eax
    add $TESTDEV_BAR, %eax
    mov %eax, bell
    movzbl TESTDEV_BAR + 8, %eax
    mov %eax, bell_value

measure:
    mov COUNT, %ecx
    call start
    mov $DEBUG_PORT, %edx
1:  inb %dx, %al
    dec %ecx
    jnz 1b
    call stop

    mov COUNT, %ecx
    call start
    mov $HPET, %edi
1:  movl (%edi), %eax
    dec %ecx
    jnz 1b
    call stop

    mov COUNT, %ecx
    call start
    mov bell, %edi
    mov bell_value, %eax
    cmpl $DEV_BELL, %edi
    jne 2f
1:  movl %eax, (%edi)
    dec %ecx
    jnz 1b
    jmp 3f
2:  cmpb $2, TESTDEV_BAR + 1        /* its width */
    je 5f
4:  movb %al, (%edi)
    dec %ecx
    jnz 4b
    jmp 3f
5:  movw %ax, (%edi)
    dec %ecx
    jnz 5b
3:  call stop
    PASS

start:
    rdtsc
    mov %eax, began
    mov %edx, began + 4
    ret
stop:
    rdtsc
    sub began, %eax
    sbb began + 4, %edx
    mov %eax, %ebx
    mov %edx, %eax
    call hex
    mov %ebx, %eax
    call hex
    mov $10, %al
    out %al, $DEBUG_PORT
    ret
hex:
    mov %eax, %esi
    mov $8, %ecx
1:  rol $4, %esi
    mov %esi, %eax
    and $15, %eax
    movb digits(%eax), %al
    out %al, $DEBUG_PORT
    dec %ecx
    jnz 1b
    ret
    .balign 8
began: .quad 0
bell: .long 0
bell_value: .long 0
digits: .ascii "0123456789abcdef"
