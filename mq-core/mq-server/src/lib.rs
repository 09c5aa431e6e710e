//! The binary `mq`: parse arguments, load configuration, start the parts, stop them in order.

mod admin;
mod arguments;
mod banner;
mod bench;
mod doctor;
mod listen;
mod metrics;
mod operators;
mod output;
mod parts;
mod settings;
mod signals;
mod store;

use anyhow::{Context, Result};

pub use arguments::Arguments;
use arguments::Command;

/// Runs until the work is done or a signal asks to stop.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Namesrv(options) => block_on(parts::name_server(&options)),
        Command::Broker(options) => block_on(parts::broker(&options)),
        Command::Up(options) => block_on(parts::up(&options)),
        Command::Admin(options) => block_on(admin::run(&options)),
        Command::Explain(options) => block_on(admin::explain(&options)),
        Command::Doctor(options) => doctor::run(&options),
        Command::Store(command) => store::run(&command),
        Command::Bench(options) => bench::run(&options),
    }
}

fn block_on<T>(part: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(part)
}

/// An error and its causes in one line; a cause that the text before it already tells is not told again.
#[must_use]
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
