//! Work on consecutive pieces of a stream, on all processors, whose results come back in the pieces' order.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A queue of work. What it is split into decides the results, never the number of threads.
pub(super) struct InOrder<T> {
    workers: usize,
    /// Started with the second piece: most streams have one.
    tasks: Option<Sender<Task>>,
    pending: VecDeque<Pending<T>>,
}

type Task = Box<dyn FnOnce() + Send>;

enum Pending<T> {
    Here(Box<dyn FnOnce() -> T + Send>),
    There(Receiver<T>),
}

impl<T: Send + 'static> InOrder<T> {
    /// With as many threads as there are processors, within reason.
    pub(super) fn new() -> Self {
        Self::with_workers(thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS)))
    }

    pub(super) fn with_workers(workers: usize) -> Self {
        Self { workers: workers.max(1), tasks: None, pending: VecDeque::new() }
    }

    /// Queues a piece; returns the oldest result when there are as many pieces as threads can be busy with.
    pub(super) fn push(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<io::Result<T>> {
        if self.workers == 1 || (self.pending.is_empty() && self.tasks.is_none()) {
            self.pending.push_back(Pending::Here(Box::new(work)));
        } else {
            // The first piece waited for a second one.
            if let Some(first) = self.pending.pop_front() {
                let first = self.send(first);
                self.pending.push_front(first);
            }
            let pending = self.send(Pending::Here(Box::new(work)));
            self.pending.push_back(pending);
        }
        if self.pending.len() >= 2 * self.workers { self.pop() } else { None }
    }

    /// The oldest result that is still owed; `None` when there is none.
    pub(super) fn pop(&mut self) -> Option<io::Result<T>> {
        Some(match self.pending.pop_front()? {
            Pending::Here(work) => Ok(work()),
            Pending::There(result) => {
                result.recv().map_err(|_| io::Error::other("a thread of the layer's died"))
            }
        })
    }

    /// Hands work to the threads.
    fn send(&mut self, pending: Pending<T>) -> Pending<T> {
        let Pending::Here(work) = pending else { return pending };
        let workers = self.workers;
        let tasks = self.tasks.get_or_insert_with(|| start(workers));
        let (sender, receiver): (SyncSender<T>, _) = sync_channel(1);
        let task: Task = Box::new(move || {
            // Whoever has stopped asking has an error of its own.
            let _ = sender.send(work());
        });
        match tasks.send(task) {
            Ok(()) => Pending::There(receiver),
            Err(unsent) => {
                // No thread could be started.
                (unsent.0)();
                Pending::There(receiver)
            }
        }
    }
}

/// Threads that end when the sender is dropped.
fn start(workers: usize) -> Sender<Task> {
    let (sender, receiver) = channel::<Task>();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..workers {
        let receiver = Arc::clone(&receiver);
        let work = move || {
            loop {
                let task = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match task {
                    Ok(task) => task(),
                    Err(_) => return,
                }
            }
        };
        // Fewer threads are slower, none at all is told by the channel.
        let _ = thread::Builder::new().name("kiln-compress".to_owned()).spawn(work);
    }
    sender
}

/// More than this wait for the disk.
const MOST_WORKERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_pieces_for_any_number_of_threads() {
        for workers in [1, 2, 7] {
            let mut queue = InOrder::with_workers(workers);
            let mut results = Vec::new();
            for piece in 0..100_u32 {
                results.extend(queue.push(move || piece * piece));
            }
            while let Some(result) = queue.pop() {
                results.push(result);
            }
            let results: Vec<u32> = results.into_iter().map(Result::unwrap).collect();
            assert_eq!(results, (0..100).map(|piece| piece * piece).collect::<Vec<_>>(), "{workers}");
        }
    }
}
