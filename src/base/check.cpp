// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace vezha {
void check_failed(const char* expression, const char* file, int line) {
    std::fprintf(stderr, "vezha: internal error at %s:%d: CHECK(%s) failed\n", file, line, expression);
    std::abort();
}
}  // namespace vezha
