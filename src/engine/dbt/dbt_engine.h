// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/engine.h"

/// The software engine's way in.
namespace vezha::engine::dbt {

/// @return Unsupported on hosts without AVX and BMI2
Result<std::unique_ptr<Vm>> create(const VmWiring& wiring);
/// What the software engine offers on this host.
Capabilities probe();

}  // namespace vezha::engine::dbt
