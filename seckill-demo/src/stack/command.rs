//! The command `seckill-demo up`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::check;
use super::process::Log;
use super::up::Stack;
use crate::config::UpArgs;

pub async fn run(args: UpArgs, shutdown: CancellationToken) -> Result<ExitCode> {
    let temporary = tempfile::tempdir()?;
    let data = args.data.as_deref().unwrap_or(temporary.path());
    let starting = Stack::start(data, args.redis_url, Log::Terminal);
    let mut stack = tokio::select! {
        stack = starting => stack?,
        () = shutdown.cancelled() => return Ok(ExitCode::FAILURE),
    };
    let mut out = std::io::stdout();
    for moved in &stack.moved {
        writeln!(out, "{moved}")?;
    }
    let result = if args.check { try_all(&mut stack, &shutdown).await } else { wait(&mut stack, &shutdown).await };
    stack.stop().await?;
    if result? {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

async fn wait(stack: &mut Stack, shutdown: &CancellationToken) -> Result<bool> {
    writeln!(std::io::stdout(), "{}\nCtrl-C stops everything.", stack.welcome())?;
    stack.run_until(shutdown).await?;
    Ok(true)
}

async fn try_all(stack: &mut Stack, shutdown: &CancellationToken) -> Result<bool> {
    let at = stack.at;
    let tried = tokio::select! {
        tried = check::try_all(at) => tried,
        ended = stack.run_until(shutdown) => return ended.map(|()| false),
    };
    writeln!(std::io::stdout(), "{}", check::table(&tried))?;
    Ok(tried.iter().all(|tried| tried.holds))
}
