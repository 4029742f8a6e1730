/* SPDX-License-Identifier: Apache-2.0 */
/* Port accesses of every size, immediate and in DX, strings forward and backward, across pages. */
#define MODE 64
#include "runtime.h"
main:
    mov $PIO_SCRATCH, %edx
    mov $0x11223344, %eax
    outl %eax, %dx
    xor %eax, %eax
    inb %dx, %al
    cmp $0x44, %eax
    CHECK(e)
    mov $0xffffffff, %rax
    shl $32, %rax
    inw %dx, %ax
    cmp $0x3344, %ax
    CHECK(e)
    inl %dx, %eax
    mov $0x11223344, %ecx
    cmp %rcx, %rax                  /* a 32-bit IN clears the upper half */
    CHECK(e)
    mov $PIO_SCRATCH + 2, %edx
    mov $0xbbaa, %eax
    outw %ax, %dx
    mov $PIO_SCRATCH, %edx
    inl %dx, %eax
    cmp $0xbbaa3344, %eax
    CHECK(e)
    /* strings */
    mov $PIO_COUNTER, %edx
    mov $HEAP + 0xff0, %edi         /* crosses a page */
    mov $32, %ecx
    rep insb
    test %ecx, %ecx
    CHECK(z)
    cmp $HEAP + 0x1010, %edi
    CHECK(e)
    mov HEAP + 0xff0, %al
    inc %al
    cmp %al, HEAP + 0xff1
    CHECK(e)
    mov HEAP + 0xff0, %al
    add $31, %al
    cmp %al, HEAP + 0x100f
    CHECK(e)
    mov $HEAP, %edi
    mov $3, %ecx
    mov $PIO_SCRATCH, %edx
    rep insl
    cmpl $0xbbaa3344, HEAP + 8
    CHECK(e)
    mov $PIO_SUM, %edx
    inb %dx, %al
    mov $bytes, %esi
    mov $5, %ecx
    rep outsb
    inb %dx, %al
    cmp $15, %al
    CHECK(e)
    std
    mov $bytes + 4, %esi
    mov $2, %ecx
    rep outsb
    cld
    inb %dx, %al
    cmp $9, %al
    CHECK(e)
    xor %ecx, %ecx
    mov $HEAP, %edi
    rep insb
    cmp $HEAP, %edi
    CHECK(e)
    mov $0xfff8, %edx               /* nobody's port */
    inb %dx, %al
    cmp $0xff, %al
    CHECK(e)
    PASS
bytes: .byte 1, 2, 3, 4, 5
