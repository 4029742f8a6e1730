/* SPDX-License-Identifier: Apache-2.0 */
/* What CPUID promises holds: vendor, hypervisor bit, topology, OSXSAVE follows CR4, RDTSCP/TSC_AUX, APIC ID agrees. */
#define MODE 64
#include "runtime.h"
main:
    xor %eax, %eax
    cpuid
    cmp $0xb, %eax
    CHECK(ae)
    mov $1, %eax
    cpuid
    bt $31, %ecx
    CHECK(c)
    bt $27, %ecx
    CHECK(nc)
    shr $24, %ebx
    CHECK(z)
    bt $26, %ecx
    jnc 1f
    mov %cr4, %rax
    bts $18, %rax
    mov %rax, %cr4
    mov $1, %eax
    cpuid
    bt $27, %ecx
    CHECK(c)
1:  mov $0xb, %eax
    mov $1, %ecx
    cpuid
    cmp $0x201, %ecx
    CHECK(e)
    cmp $1, %ebx
    CHECK(e)
    test %edx, %edx
    CHECK(z)
    mov $0x80000001, %eax
    cpuid
    bt $29, %edx
    CHECK(c)
    bt $27, %edx
    jnc 1f
    mov $0xc0000103, %ecx
    mov $0x77, %eax
    xor %edx, %edx
    wrmsr
    rdtscp
    cmp $0x77, %ecx
    CHECK(e)
1:  rdtsc
    mov %eax, %esi
    mov %edx, %edi
    rdtsc
    sub %esi, %eax
    sbb %edi, %edx
    CHECK(nc)
    mov $0x1b, %ecx
    rdmsr
    bt $8, %eax
    CHECK(c)
    PASS
