/* SPDX-License-Identifier: Apache-2.0 */
/* Decimal arithmetic, BOUND, ARPL's absence, ENTER and LEAVE: what only old code uses. */
#define MODE 16
#include "runtime.h"
main:
    mov $0x15, %al
    add $0x27, %al
    daa
    cmp $0x42, %al
    CHECK(e)
    mov $0x42, %al
    sub $0x15, %al
    das
    cmp $0x27, %al
    CHECK(e)
    mov $0x0035, %ax
    add $0x39, %al
    aaa
    cmp $0x0104, %ax
    CHECK(e)
    mov $0x0104, %ax
    aad
    cmp $14, %ax
    CHECK(e)
    mov $14, %ax
    aam
    cmp $0x0104, %ax
    CHECK(e)
    mov %sp, %bx
    enter $16, $0
    leave
    cmp %sp, %bx
    CHECK(e)
    /* BOUND: vector 5, the instruction's own address */
    movw $out_of_bounds, 4 * 5
    movw $0, 4 * 5 + 2
    mov $7, %ax
    bound %ax, bounds
    mov $11, %ax
1:  bound %ax, bounds
    cmp $10, %ax
    CHECK(e)
    PASS
out_of_bounds:
    mov $10, %ax
    iret
bounds: .word 1, 10
