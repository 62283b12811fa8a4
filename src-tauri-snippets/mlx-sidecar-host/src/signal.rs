//! A flag that ends every wait, also one for the end of a process.

use rustix::pipe::{pipe_with, PipeFlags};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Set once, never reset.
#[derive(Debug)]
pub struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
    pipe: Option<(OwnedFd, OwnedFd)>, // without it (too many open files) a wait for a process ends by its time
}

impl Default for Signal {
    fn default() -> Self {
        let pipe = pipe_with(PipeFlags::CLOEXEC).ok();
        Signal { set: Mutex::new(false), changed: Condvar::new(), pipe }
    }
}

impl Signal {
    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Set it: every wait ends.
    pub fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        if let Some((_, write)) = &self.pipe {
            let _ = rustix::io::write(write, b"x");
        }
    }

    /// Wait until it is set, `time` at most; returns whether it is.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while !*set {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            set = self.changed.wait_timeout(set, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Wait until the process `pid` has ended, it is set, or `time` has passed; returns whether it ended.
    #[cfg(target_os = "linux")]
    pub fn wait_for_end(&self, pid: i32, time: Duration) -> bool {
        use rustix::event::{poll, PollFd, PollFlags, Timespec};
        use rustix::process::{pidfd_open, Pid, PidfdFlags};
        let Some((read, _)) = &self.pipe else {
            self.wait(time);
            return false;
        };
        let Some(process) = Pid::from_raw(pid) else { return true };
        match pidfd_open(process, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => true,
            // Too old a kernel, or too many open files: the next look will tell.
            Err(_) => {
                self.wait(time);
                false
            }
            Ok(handle) => {
                let mut fds = [PollFd::new(&handle, PollFlags::IN), PollFd::new(read, PollFlags::IN)];
                let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
                let _ = poll(&mut fds, Some(&limit));
                fds[0].revents().contains(PollFlags::IN)
            }
        }
    }

    /// Wait until the process `pid` has ended, it is set, or `time` has passed; returns whether it ended.
    #[cfg(not(target_os = "linux"))]
    pub fn wait_for_end(&self, pid: i32, time: Duration) -> bool {
        use rustix::event::kqueue::{kevent, kqueue, Event, EventFilter, EventFlags, ProcessEvents};
        use rustix::process::Pid;
        use std::os::fd::AsRawFd;
        let (Some((read, _)), Ok(queue)) = (&self.pipe, kqueue()) else {
            self.wait(time);
            return false;
        };
        let Some(process) = Pid::from_raw(pid) else { return true };
        let end = EventFilter::Proc { pid: process, flags: ProcessEvents::EXIT };
        let wants = [
            Event::new(EventFilter::Read(read.as_raw_fd()), EventFlags::ADD, std::ptr::null_mut()),
            Event::new(end, EventFlags::ADD | EventFlags::ONESHOT, std::ptr::null_mut()),
        ];
        let mut events = Vec::with_capacity(2);
        // SAFETY: the descriptor in `wants` is open for as long as `self`.
        match unsafe { kevent(&queue, &wants, &mut events, Some(time)) } {
            Err(error) => error == rustix::io::Errno::SRCH,
            Ok(_) => events.iter().any(|event| matches!(event.filter(), EventFilter::Proc { .. })),
        }
    }
}
