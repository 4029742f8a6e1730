/* SPDX-License-Identifier: Apache-2.0 */
/* Locked and wide instructions on memory. */
#define MODE 64
#include "runtime.h"
main:
    movq $1, HEAP
    movq $2, HEAP + 8
    mov $1, %eax
    mov $2, %edx
    mov $3, %ebx
    mov $4, %ecx
    lock cmpxchg16b HEAP
    CHECK(z)
    cmpq $3, HEAP
    CHECK(e)
    cmpq $4, HEAP + 8
    CHECK(e)
    lock cmpxchg16b HEAP
    CHECK(nz)
    cmp $3, %rax
    CHECK(e)
    cmp $4, %rdx
    CHECK(e)
    mov $HEAP + 8, %esi
    EXPECT(13, 0, lock cmpxchg16b (%rsi))
    lock cmpxchg8b HEAP + 0x3c      /* across a cache line */
    mov $5, %eax
    lock xadd %rax, HEAP
    cmp $3, %rax
    CHECK(e)
    cmpq $8, HEAP
    CHECK(e)
    lock btsq $0, HEAP
    CHECK(nc)
    lock negq HEAP
    cmpq $-9, HEAP
    CHECK(e)
    EXPECT(6, 0, .byte 0xf0, 0x90)  /* lock nop */
    PASS
