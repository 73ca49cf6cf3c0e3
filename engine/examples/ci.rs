//! What a CI job does: build with a deadline, show the steps, keep the digest.
//!
//! ```text
//! cargo run --example ci -- CONTEXT IMAGE-NAME OUT.tar
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use kiln::{Build, ErrorKind, Event, OutputSpec};

/// A job that takes longer is stopped.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(context), Some(name), Some(archive)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: ci CONTEXT IMAGE-NAME OUT.tar");
        return ExitCode::from(2);
    };
    let steps = Mutex::new(HashMap::new());
    let build = Build::from_context(context)
        .tag(name)
        .output(OutputSpec::Image { options: Default::default() })
        .output(OutputSpec::Oci { dest: Some(archive.into()), tar: true, options: Default::default() })
        .on_event(move |event| {
            // Nobody panics while holding it; a step without a name is shown by its number.
            let Ok(mut steps) = steps.lock() else { return };
            match event {
                Event::Step { id, name, .. } => {
                    steps.insert(id, name);
                }
                Event::Cached { id, .. } => {
                    println!("cached  {}", steps.get(&id).map_or("?", String::as_str))
                }
                Event::Done { id, at } => {
                    println!("{:>6.2}s {}", at.as_secs_f64(), steps.get(&id).map_or("?", String::as_str));
                }
                Event::Log { bytes, .. } => print!("{}", String::from_utf8_lossy(&bytes)),
                Event::Warning { message, .. } => println!("warning: {message}"),
                _ => {}
            }
        });

    let handle = build.cancel_handle();
    let (finished, deadline) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if deadline.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            handle.cancel();
        }
    });
    let result = build.run();
    drop(finished);
    if watch.join().is_err() {
        eprintln!("the watch ended early");
    }

    match result {
        Ok(image) => {
            println!("image id: {}", image.config_digest);
            if let Some(manifest) = image.manifest_digest {
                println!("digest:   {manifest}");
            }
            println!("{} steps cached, {} run", image.steps_cached, image.steps_run);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = &error.hint {
                eprintln!("hint: {hint}");
            }
            // A job may be tried again when it was not the Dockerfile's fault.
            ExitCode::from(if error.kind == ErrorKind::Environment { 75 } else { 1 })
        }
    }
}
