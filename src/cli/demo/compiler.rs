//! The C compiler of this machine, as actions see it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::SEARCH_PATH;

/// Programs that compile C, the usual one first.
const COMPILERS: [&str; 3] = ["cc", "gcc", "clang"];

/// Programs that make archives.
const ARCHIVERS: [&str; 2] = ["ar", "llvm-ar"];

/// A program that needs the headers and the library of C.
const TRIAL: &str = "#include <stdio.h>\nint main(void) { return puts(\"works\") < 0; }\n";

/// A compiler that was tried.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    /// Compiles and links.
    pub(super) cc: String,
    /// Makes archives.
    pub(super) ar: String,
}

impl Compiler {
    /// The first that works; `scratch` is for a trial.
    ///
    /// # Errors
    ///
    /// Why there is none, in a sentence.
    pub(super) fn find(scratch: &Path) -> Result<Self, String> {
        let places = format!("none in {}", SEARCH_PATH.replace(':', ", "));
        let cc = first(&COMPILERS).ok_or_else(|| format!("no C compiler is installed: {places}"))?;
        let ar = first(&ARCHIVERS).ok_or_else(|| format!("no ar is installed: {places}"))?;
        try_out(&cc, scratch).map_err(|why| format!("{cc} cannot build a small program: {why}"))?;
        Ok(Self { cc, ar })
    }
}

/// The first of these programs that is there.
fn first(names: &[&str]) -> Option<String> {
    let paths =
        names.iter().flat_map(|name| SEARCH_PATH.split(':').map(move |place| format!("{place}/{name}")));
    paths.into_iter().find(|path| Path::new(path).is_file())
}

/// Builds and runs a small program.
fn try_out(cc: &str, scratch: &Path) -> Result<(), String> {
    let (source, program) = (scratch.join("trial.c"), scratch.join("trial"));
    fs::write(&source, TRIAL).map_err(|error| error.to_string())?;
    run(Command::new(cc).arg(&source).arg("-o").arg(&program))?;
    let said = run(&mut Command::new(&program))?;
    if said == "works\n" { Ok(()) } else { Err(format!("it said {said:?}")) }
}

/// What a command prints, with the environment of an action.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.lines().next().map_or_else(|| output.status.to_string(), ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_does_not_work_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let why = try_out("/bin/false", scratch.path()).unwrap_err();
        assert!(why.contains("exit status: 1"), "{why}");
        assert!(try_out("/nowhere/cc", scratch.path()).is_err());
        assert_eq!(first(&["no-such-program"]), None);
    }
}
