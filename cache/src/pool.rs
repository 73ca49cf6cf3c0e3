//! Threads for what is done to many files at once.

use std::sync::OnceLock;

/// Runs `parallel` in kiln's own threads where that is worth it, else `alone` in this one. The global pool of rayon belongs
/// to whoever embeds kiln.
pub fn spread<R: Send>(is_worth: bool, alone: impl FnOnce() -> R, parallel: impl FnOnce() -> R + Send) -> R {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    if !is_worth {
        return alone();
    }
    let pool = POOL.get_or_init(|| {
        rayon::ThreadPoolBuilder::new().thread_name(|index| format!("kiln-files-{index}")).build().ok()
    });
    match pool {
        Some(pool) => pool.install(parallel),
        None => alone(),
    }
}
