/* SPDX-License-Identifier: Apache-2.0 */
/* x87, SSE, AVX: arithmetic, #NM with CR0.TS, #MF/#XM, FXSAVE, XSAVE and XCR0. */
#define MODE 64
#include "runtime.h"
main:
    fninit
    fldpi
    fld1
    faddp
    fistpl HEAP
    cmpl $4, HEAP
    CHECK(e)
    movq $0x400921fb54442d18, %rax
    movq %rax, %xmm0
    mulsd %xmm0, %xmm0
    cvttsd2si %xmm0, %eax
    cmp $9, %eax
    CHECK(e)
    movups vector_data, %xmm1
    paddd %xmm1, %xmm1
    movups %xmm1, HEAP + 16
    cmpl $8, HEAP + 28
    CHECK(e)
    /* FXSAVE and back */
    fxsave HEAP + 0x200
    pxor %xmm1, %xmm1
    fxrstor HEAP + 0x200
    movups %xmm1, HEAP + 32
    cmpl $8, HEAP + 44
    CHECK(e)
    /* #NM */
    mov %cr0, %rax
    or $8, %eax
    mov %rax, %cr0
    EXPECT(7, 0, fld1)
    EXPECT(7, 0, addps %xmm1, %xmm1)
    clts
    addps %xmm1, %xmm1
    /* #XM: division by zero unmasked */
    movl $0x1d80, HEAP
    ldmxcsr HEAP
    xorps %xmm2, %xmm2
    mov $1, %eax
    cvtsi2ss %eax, %xmm3
    EXPECT(19, 0, divss %xmm2, %xmm3)
    stmxcsr HEAP
    btl $2, HEAP
    CHECK(c)
    movl $0x1f80, HEAP
    ldmxcsr HEAP
    EXPECT(13, 0, movaps HEAP + 8, %xmm0)
    /* #MF at the next waiting instruction */
    fninit
    movw $0x37b, HEAP
    fldcw HEAP
    fldz
    fld1
    fdiv %st(1), %st
    EXPECT(16, 0, fwait)
    fninit
    /* AVX */
    mov $1, %eax
    cpuid
    bt $26, %ecx
    jnc 9f
    mov %ecx, %r15d
    xor %ecx, %ecx
    EXPECT(6, 0, xgetbv)
    mov %cr4, %rax
    bts $18, %rax
    mov %rax, %cr4
    bt $28, %r15d
    jnc 9f
    xor %ecx, %ecx
    xor %edx, %edx
    mov $6, %eax
    EXPECT(13, 0, xsetbv)           /* x87 must stay on */
    mov $7, %eax
    xsetbv
    xgetbv
    cmp $7, %eax
    CHECK(e)
    vmovups vector_data, %ymm4
    vaddps %ymm4, %ymm4, %ymm5
    vmovups %ymm4, HEAP + 64
    cmpl $8, HEAP + 92
    CHECK(e)
    mov $7, %eax
    xor %edx, %edx
    xsave HEAP + 0x400
    mov HEAP + 0x600, %rcx          /* XSTATE_BV */
    bt $2, %ecx
    CHECK(c)
    vzeroall
    mov $7, %eax
    xrstor HEAP + 0x400
    vmovups %ymm4, HEAP + 96
    cmpl $8, HEAP + 124
    CHECK(e)
    mov $0xd, %eax
    xor %ecx, %ecx
    cpuid
    cmp $832, %ebx
    CHECK(e)
9:  PASS
    .balign 32
vector_data: .long 1, 2, 3, 4, 5, 6, 7, 8
