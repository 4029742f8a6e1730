// SPDX-License-Identifier: Apache-2.0
#include "vmm/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace vezha::vmm {
namespace {

/// Runs `body` sandboxed in a child. @return its exit status
template <class Body>
int in_sandbox(SandboxMode mode, Body body) {
    const pid_t child = fork();
    if (child == 0) {
        if (!enter_sandbox(mode)) _exit(90);
        _exit(body());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

TEST(Sandbox, OrdinaryWorkGoesOn) {
    EXPECT_EQ(in_sandbox(SandboxMode::Enforce, [] {
                  int seen = 0;
                  std::thread([&] { seen = 1; }).join();
                  const int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
                  char byte = 0;
                  return seen == 1 && fd >= 0 && read(fd, &byte, 1) == 1 && open("/tmp/vezha-sandbox", O_WRONLY | O_CREAT, 0600) < 0 ? 0 : 91;
              }),
              0);
}

TEST(Sandbox, ProgramsCannotBeStarted) {
    EXPECT_EQ(in_sandbox(SandboxMode::Enforce, [] {
                  execl("/bin/true", "true", nullptr);
                  return 92;
              }),
              1);
}

TEST(Sandbox, LogModeOnlyNotes) {
    EXPECT_EQ(in_sandbox(SandboxMode::Log, [] {
                  execl("/bin/true", "true", nullptr);
                  return 92;
              }),
              0);
}

}  // namespace
}  // namespace vezha::vmm
