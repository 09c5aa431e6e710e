//! Pages of docs/ with a table that a program makes: what stands between two lines is replaced.

use std::path::Path;

use anyhow::{Context, Result};

/// The lines are `<!-- name -->` and `<!-- end of name -->`.
pub fn replace_between(page: &Path, name: &str, table: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"));
    let old = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let (before, rest) = old.split_once(&begin).with_context(|| format!("{} lacks {begin}", page.display()))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("{} lacks {end}", page.display()))?;
    std::fs::write(page, format!("{before}{begin}\n{table}{end}{after}"))?;
    Ok(())
}
