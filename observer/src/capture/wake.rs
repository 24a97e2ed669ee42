//! When the ring buffer is looked into.
//!
//! A wakeup for each record costs the program that is watched several times as much as the record.
//! So while records come, the agent looks by itself every millisecond or few, and the programs wake
//! it only if the buffer fills up before; when none come, it sleeps until the next one wakes it.

use std::{io, time::Duration};

use aya::maps::{Array, MapData};
use observer_common::agent;
use rustix::{
    event::{Timespec, epoll},
    fd::{AsFd, OwnedFd},
    io::Errno,
};

/// How long the agent dozes while many records come.
const DOZE: Duration = Duration::from_millis(1);

/// How long it dozes while few come: to look costs more than to read them.
const LONG_DOZE: Duration = Duration::from_millis(5);

/// Records that make a look worth while.
const MANY: usize = 256;

/// Looks in vain after which it goes to sleep.
const VAIN: u32 = 3;

/// Marks the ring buffer among the descriptors that are waited for.
const RING: u64 = 0;
const OTHER: u64 = 1;

/// Waits for records, and tells the programs whether they must wake it.
pub(super) struct Waker {
    epoll: OwnedFd,
    /// `observer_common::agent`.
    agent: Array<MapData, u32>,
    /// What the programs have been told.
    told: u32,
    /// Looks in vain so far.
    vain: u32,
    /// How often a program has woken the agent.
    wakeups: u64,
}

impl Waker {
    /// Waits for a ring buffer.
    pub(super) fn new(ring: impl AsFd, agent: Array<MapData, u32>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: only a program's wakeup counts, not that there are records.
        epoll::add(
            &epoll,
            ring,
            epoll::EventData::new_u64(RING),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(Self {
            epoll,
            agent,
            told: agent::RUNNING,
            vain: 0,
            wakeups: 0,
        })
    }

    /// Also wakes up when `other` can be read.
    pub(super) fn also(&self, other: impl AsFd) -> io::Result<()> {
        let added = epoll::add(
            &self.epoll,
            other,
            epoll::EventData::new_u64(OTHER),
            epoll::EventFlags::IN,
        );
        match added {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it is time to look, `longest` at most. `handled` is how many records there were the
    /// last time.
    pub(super) fn wait(&mut self, handled: usize, longest: Duration) -> io::Result<()> {
        self.vain = if handled == 0 { self.vain + 1 } else { 0 };
        if self.vain < VAIN {
            self.tell(agent::DOZING)?;
            return self.sleep(if handled < MANY { LONG_DOZE } else { DOZE });
        }
        if self.told != agent::ASLEEP {
            self.tell(agent::ASLEEP)?;
            // A program that has not heard of it yet may be adding a record.
            return self.sleep(DOZE);
        }
        self.sleep(longest)
    }

    /// How often a program has woken the agent.
    pub(super) fn wakeups(&self) -> u64 {
        self.wakeups
    }

    /// From now on nothing is added to the ring buffer.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.agent
            .set(agent::STOPPED, 1, 0)
            .map_err(io::Error::other)
    }

    fn tell(&mut self, state: u32) -> io::Result<()> {
        if self.told != state {
            self.agent
                .set(agent::STATE, state, 0)
                .map_err(io::Error::other)?;
            self.told = state;
        }
        Ok(())
    }

    fn sleep(&mut self, time: Duration) -> io::Result<()> {
        let time = Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(1),
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut ready = Vec::with_capacity(2);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut ready),
            Some(&time),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in ready {
            if { event.data }.u64() == RING {
                // The program that woke us has noted it.
                self.told = agent::RUNNING;
                self.vain = 0;
                self.wakeups += 1;
            }
        }
        Ok(())
    }
}
