# SPDX-License-Identifier: Apache-2.0
# Every dependency is a Debian 12 package; nothing is fetched at build time.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(GTest REQUIRED)
find_path(TOMLPLUSPLUS toml++/toml.h REQUIRED)
find_package(zydis REQUIRED)
pkg_check_modules(liburing REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(slirp REQUIRED IMPORTED_TARGET slirp)
pkg_check_modules(seccomp REQUIRED IMPORTED_TARGET libseccomp)
pkg_check_modules(cap_ng REQUIRED IMPORTED_TARGET libcap-ng)
