//! The scripts, read from `lua/` at build time, each behind the shared prelude. What they do is said in them.

use redis::Script;

pub(super) struct Scripts {
    pub(super) peek: Script,
    pub(super) reserve: Script,
    pub(super) check: Script,
    pub(super) settle: Script,
    pub(super) dismantle: Script,
    pub(super) begin: Script,
    pub(super) load: Script,
    pub(super) open: Script,
    pub(super) status: Script,
}

impl Default for Scripts {
    fn default() -> Scripts {
        let script = |body: &str| Script::new(&format!("{}\n{body}", include_str!("lua/prelude.lua")));
        Scripts {
            peek: script(include_str!("lua/peek.lua")),
            reserve: script(include_str!("lua/reserve.lua")),
            check: script(include_str!("lua/check.lua")),
            settle: script(include_str!("lua/settle.lua")),
            dismantle: script(include_str!("lua/dismantle.lua")),
            begin: script(include_str!("lua/begin.lua")),
            load: script(include_str!("lua/load.lua")),
            open: script(include_str!("lua/open.lua")),
            status: script(include_str!("lua/status.lua")),
        }
    }
}
