/* SPDX-License-Identifier: Apache-2.0 */
/* Real mode: arithmetic and flags, segments, strings, the interrupt vector table, 32-bit operands. */
#define MODE 16
#include "runtime.h"
main:
    mov $0x7fff, %ax
    add $1, %ax
    CHECK(o)
    cmp $0x8000, %ax
    CHECK(e)
    mov $0xffffffff, %eax
    add $1, %eax
    CHECK(c)
    CHECK(z)
    /* segment override: 2000:0010 is 20010 */
    mov $0x2000, %ax
    mov %ax, %es
    movw $0xbeef, %es:0x10
    mov $0x2001, %ax
    mov %ax, %fs
    cmpw $0xbeef, %fs:0
    CHECK(e)
    /* strings */
    mov $source, %si
    mov $0x100, %di
    mov $6, %cx
    rep movsb
    mov $source, %si
    mov $0x100, %di
    mov $6, %cx
    repe cmpsb
    CHECK(e)
    test %cx, %cx
    CHECK(z)
    std
    mov $0x105, %di
    mov $'c', %al
    mov $6, %cx
    repne scasb
    CHECK(e)
    cmp $2, %cx
    CHECK(e)
    cld
    /* software interrupt through the vector table */
    movw $service, 4 * 0x21
    movw $0, 4 * 0x21 + 2
    mov $5, %bx
    stc
    int $0x21
    CHECK(c)                        /* IRET restored it */
    cmp $6, %bx
    CHECK(e)
    /* #DE in real mode: returns to the instruction; the handler skips it */
    movw $divide, 0
    movw $0, 2
    xor %cx, %cx
    xor %dx, %dx
    mov $1, %ax
    div %cx
    cmp $0x1234, %dx
    CHECK(e)
    mov $70000, %eax
    mov $3, %ecx
    imul %ecx, %eax
    cmp $210000, %eax
    CHECK(e)
    lcall $0, $far_function
    cmp $0x77, %bl
    CHECK(e)
    push %sp
    pop %ax
    cmp %sp, %ax
    CHECK(e)
    mov $message, %si
    call puts
    PASS
far_function:
    mov $0x77, %bl
    lret
service:
    inc %bx
    iret
divide:
    mov $0x1234, %dx
    push %bp
    mov %sp, %bp
    addw $2, 2(%bp)
    pop %bp
    iret
source: .ascii "abcdef"
message: .asciz "real mode\n"
