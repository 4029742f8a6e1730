// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/stddef.h>
// Before Linux 6.6 the headers' flexible arrays have an empty structure in front, which takes a byte in C++ and shifts
// the array and the ioctl numbers made of the sizes.
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "engine/engine.h"

/// Private to engine/kvm: the handles /dev/kvm and what it offers.
namespace vezha::engine::kvm {

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_irq_routing) == 8 && sizeof(kvm_xsave) == 4096);

/// ioctl() that repeats when a signal interrupts it. Not for KVM_RUN.
template <class... Argument>
int kvm_ioctl(int fd, unsigned long request, Argument... argument) {
    int r;
    do {
        r = ::ioctl(fd, request, argument...);
    } while (r < 0 && errno == EINTR);
    return r;
}

/// Fails with "<name>: <errno text>".
#define KVM_TRY(fd, request, ...)                                                                       \
    ({                                                                                                  \
        const int vezha_r_ = ::vezha::engine::kvm::kvm_ioctl((fd), (request)__VA_OPT__(, ) __VA_ARGS__); \
        if (vezha_r_ < 0) return ::vezha::fail_errno(errno, "{}", #request);                            \
        vezha_r_;                                                                                       \
    })

/// /dev/kvm, opened and checked.
class Host {
  public:
    static Result<Host> open();
    int fd() const { return fd_.get(); }
    int extension(unsigned cap) const { return kvm_ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(cap)); }
    usize run_size() const { return run_size_; }
    Result<UniqueFd> create_vm() const;
    Result<Capabilities> capabilities() const;

  private:
    Host(UniqueFd fd, usize run_size) : fd_(std::move(fd)), run_size_(run_size) {}
    UniqueFd fd_;
    usize run_size_;
};

}  // namespace vezha::engine::kvm
