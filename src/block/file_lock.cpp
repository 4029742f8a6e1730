// SPDX-License-Identifier: Apache-2.0
#include "block/file_lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "base/fd.h"
#include "base/log.h"

namespace vezha::block {

namespace {

// Bytes 100+n mean "uses permission n", 200+n "does not share permission n"; n = 1 is writing. A writer of ours takes all
// of both; a reader says only that nobody may write.
constexpr off_t kWriterStart = 100, kWriterLength = 200;
constexpr off_t kReaderStart = 201, kReaderLength = 1;

struct Directory {
    explicit Directory(const std::string& path) : dir(::opendir(path.c_str())) {}
    ~Directory() {
        if (dir) ::closedir(dir);
    }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    /// The next entry that is a number, or empty.
    std::string next_number() {
        while (dir) {
            const dirent* entry = ::readdir(dir);
            if (!entry) break;
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') return entry->d_name;
        }
        return {};
    }
    DIR* dir;
};

/// Who holds an open file description lock on this inode: the kernel gives no process id for such locks, but a process's
/// /proc/PID/fdinfo lists the locks behind each of its descriptors. 0 if none is visible to us.
pid_t find_holder(const struct stat& image) {
    Directory processes("/proc");
    for (std::string pid = processes.next_number(); !pid.empty(); pid = processes.next_number()) {
        Directory descriptors("/proc/" + pid + "/fd");
        for (std::string fd = descriptors.next_number(); !fd.empty(); fd = descriptors.next_number()) {
            struct stat info = {};
            if (::stat(("/proc/" + pid + "/fd/" + fd).c_str(), &info) < 0) continue;
            if (info.st_dev != image.st_dev || info.st_ino != image.st_ino) continue;
            auto text = read_file("/proc/" + pid + "/fdinfo/" + fd);
            if (text.has_value() && text->find("\nlock:") != std::string::npos) return std::atoi(pid.c_str());
        }
    }
    return 0;
}

std::string describe_process(pid_t pid) {
    std::string name = read_file(fmt::format("/proc/{}/comm", pid)).value_or("");
    while (!name.empty() && name.back() == '\n') name.pop_back();
    return fmt::format("process {} ({})", pid, name.empty() ? "?" : name);
}

}  // namespace

Result<> lock_image(int fd, const std::string& path, bool writer) {
    struct flock lock = {};
    lock.l_type = writer ? F_WRLCK : F_RDLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = writer ? kWriterStart : kReaderStart;
    lock.l_len = writer ? kWriterLength : kReaderLength;
    if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
    const int error_number = errno;
    if (error_number != EAGAIN && error_number != EACCES) {
        // A file system without locks is no reason to refuse the image.
        log_warning("block", "{}", errno_error(error_number, fmt::format("'{}' cannot be locked", path)).message());
        return {};
    }
    struct stat image = {};
    const pid_t holder = ::fstat(fd, &image) == 0 ? find_holder(image) : 0;
    if (holder == ::getpid())
        return Failure(Error(ErrorCode::Busy, fmt::format("'{}' is a disk of this virtual machine already", path))
                           .with_hint("give each image to one disk, or open it with readonly=on in both places"));
    return Failure(Error(ErrorCode::Busy, fmt::format("'{}' is in use by {}", path,
                                                      holder ? describe_process(holder) : "another process"))
                       .with_hint(writer ? "stop it, or open the image with readonly=on in both places"
                                         : "it may write to the image; stop it, or let it open the image with readonly=on"));
}

}  // namespace vezha::block
