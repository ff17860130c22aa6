//! A program in C: modules of generated source files, with headers that include each other.
//!
//! It is the same on every machine. What it must print is known without compiling it: each of its functions
//! is here in Rust too ([`kernels`]), so that a wrong bit anywhere in the build is found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::compiler::Compiler;
use super::job::{Job, Project, Step};

mod kernels;

use kernels::{KERNELS, mix};

/// Source files of a module that do the work; one more puts them together.
const PARTS: usize = 10;

/// Rounds of a module in its test, and in that of all of them.
const ROUNDS: usize = 200;
const ROUNDS_OF_ALL: usize = 80;

/// Headers that everybody includes.
const COMMON: [(&str, &str); 2] = [
    ("common/types.h", include_str!("../../../assets/demo/types.h")),
    ("common/random.h", include_str!("../../../assets/demo/random.h")),
];

/// A module: its name, and those whose headers its own header includes.
struct Module {
    name: &'static str,
    includes: &'static [&'static str],
}

const MODULES: [Module; 8] = [
    Module { name: "field", includes: &[] },
    Module { name: "orchard", includes: &[] },
    Module { name: "pond", includes: &[] },
    Module { name: "well", includes: &[] },
    Module { name: "mill", includes: &["field"] },
    Module { name: "barn", includes: &["field", "orchard"] },
    Module { name: "silo", includes: &["mill"] },
    Module { name: "coop", includes: &["mill", "pond", "well"] },
];

/// What is done to the program, in this order and then again from the second on.
const CHANGES: [Change; 9] = [
    Change::Header("mill"),
    Change::Source("pond", 4),
    Change::Typo("coop", 7),
    Change::TypoMended,
    Change::Nothing,
    Change::Flags("orchard"),
    Change::Header("well"),
    Change::Source("barn", 2),
    Change::Header("field"),
];

/// One thing a person does to a program.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Header(&'static str),
    Source(&'static str, usize),
    Flags(&'static str),
    Typo(&'static str, usize),
    TypoMended,
}

/// The program as it stands.
pub(super) struct Program {
    compiler: Compiler,
    /// How much all modules are optimised, but for some.
    level: &'static str,
    /// How often each file was changed, by its path.
    revisions: BTreeMap<String, u32>,
    /// Modules that are optimised more than the others.
    optimised: BTreeSet<&'static str>,
    /// The source file with a mistake.
    typo: Option<String>,
    changes: usize,
}

// === impl Project ===

impl Project for Program {
    fn describe(&self) -> String {
        let files = MODULES.len() * (PARTS + 1) + 1;
        format!("a program of {files} C files in {} modules, compiled by {}", MODULES.len(), self.compiler.cc)
    }

    fn change(&mut self) -> String {
        let number = self.changes;
        self.changes += 1;
        let again = CHANGES.len() - 1;
        let place = if number == 0 { 0 } else { 1 + (number - 1) % again };
        self.apply(CHANGES[place])
    }

    fn job(&self) -> Job {
        let mut job = Job::default();
        for (path, text) in COMMON {
            job.add_source(path, text);
        }
        for module in &MODULES {
            job.add_source(header_path(module.name), self.header(module));
        }
        for module in &MODULES {
            self.add_module(&mut job, module);
        }
        self.add_program(&mut job);
        job
    }
}

// === impl Program ===

impl Program {
    /// As it is before the first change, optimised so much.
    pub(super) fn new(compiler: Compiler, level: &'static str) -> Self {
        Self {
            compiler,
            level,
            revisions: BTreeMap::new(),
            optimised: BTreeSet::new(),
            typo: None,
            changes: 0,
        }
    }

    fn apply(&mut self, change: Change) -> String {
        match change {
            Change::Nothing => "nothing changed".to_owned(),
            Change::Header(module) => self.revise(header_path(module)),
            Change::Source(module, part) => self.revise(source_path(module, &part_name(module, part))),
            Change::Flags(module) if self.optimised.insert(module) => format!("{module} compiled with -O3"),
            Change::Flags(module) => {
                self.optimised.remove(module);
                format!("{module} compiled with {} again", self.level)
            }
            Change::Typo(module, part) => {
                let path = source_path(module, &part_name(module, part));
                let told = format!("a typo in {path}, which fails");
                self.typo = Some(path);
                told
            }
            Change::TypoMended => {
                self.typo = None;
                "the typo mended".to_owned()
            }
        }
    }

    fn revise(&mut self, path: String) -> String {
        let told = format!("{path} changed");
        *self.revisions.entry(path).or_default() += 1;
        told
    }

    fn revision(&self, path: &str) -> u32 {
        self.revisions.get(path).copied().unwrap_or(0)
    }

    // === text ===

    fn header(&self, module: &Module) -> String {
        let guard = module.name.to_uppercase();
        let mut text = format!("#ifndef {guard}_H\n#define {guard}_H\n\n#include \"common/random.h\"\n");
        for included in module.includes {
            let _ = writeln!(text, "#include \"{}\"", header_path(included));
        }
        let _ = write!(text, "\n#define {guard}_SALT ({}u", self.own_salt(module));
        for included in module.includes {
            let _ = write!(text, " + 3u * {}_SALT", included.to_uppercase());
        }
        text.push_str(")\n\n");
        for part in 1..=PARTS {
            let _ = writeln!(text, "u32 {}(void);", part_name(module.name, part));
        }
        let _ = write!(text, "\n/* All parts together. */\nu32 {}_run(void);\n\n#endif\n", module.name);
        text
    }

    fn part(&self, module: &Module, part: usize) -> String {
        let name = part_name(module.name, part);
        let mut text =
            format!("/* Part {part} of {}. */\n#include \"{}\"\n\n", module.name, header_path(module.name));
        let _ = writeln!(text, "#define PART_SALT {}u\n", self.part_salt(module, part));
        for place in 0..KERNELS.len() {
            let (kernel, size) = chosen(part, place);
            let copy = kernel.text.replace("@NAME@", kernel.name).replace("@SIZE@", &size.to_string());
            text.push_str(&copy);
            text.push('\n');
        }
        let _ = writeln!(text, "u32 {name}(void) {{\n    u32 sum = 0;");
        for place in 0..KERNELS.len() {
            let (kernel, guard) = (chosen(part, place).0, module.name.to_uppercase());
            let _ =
                writeln!(text, "    sum = mix(sum, {}({guard}_SALT + PART_SALT + {place}u));", kernel.name);
        }
        text.push_str("    return sum;\n}\n");
        if self.typo.as_deref() == Some(&source_path(module.name, &name)) {
            text.push_str("\nu32 unfinished(void { return 0; }\n");
        }
        text
    }

    fn main(&self) -> String {
        let includes: String =
            MODULES.iter().map(|module| format!("#include \"{}\"\n", header_path(module.name))).collect();
        let modules: String =
            MODULES.iter().map(|module| format!("    {{\"{0}\", {0}_run}},\n", module.name)).collect();
        let text = include_str!("../../../assets/demo/main.c");
        text.replace("@INCLUDES@\n", &format!("{includes}\n")).replace("@MODULES@", &modules)
    }

    // === values ===

    fn own_salt(&self, module: &Module) -> u32 {
        let letters = module.name.bytes().map(u32::from).fold(0, mix) % 1000;
        letters + 1000 * self.revision(&header_path(module.name))
    }

    fn salt(&self, module: &Module) -> u32 {
        let included = module.includes.iter().filter_map(|name| module_named(name));
        included.fold(self.own_salt(module), |salt, module| salt.wrapping_add(3 * self.salt(module)))
    }

    fn part_salt(&self, module: &Module, part: usize) -> u32 {
        let revision = self.revision(&source_path(module.name, &part_name(module.name, part)));
        100 * part as u32 + 10_000 * revision
    }

    /// What a module comes to.
    fn value(&self, module: &Module) -> u32 {
        let part = |part: usize| {
            let salt = self.salt(module).wrapping_add(self.part_salt(module, part));
            let values = (0..KERNELS.len()).map(|place| {
                let (kernel, size) = chosen(part, place);
                (kernel.value)(size, salt.wrapping_add(place as u32))
            });
            values.fold(0, mix)
        };
        (1..=PARTS).map(part).fold(0, mix)
    }

    // === steps ===

    /// Compiles the files of a module, and puts them into an archive.
    fn add_module(&self, job: &mut Job, module: &Module) {
        let name = module.name;
        let mut objects = Vec::new();
        for part in 1..=PARTS {
            let part_name = part_name(name, part);
            job.add_source(source_path(name, &part_name), self.part(module, part));
            objects.push(self.add_compilation(job, name, &part_name));
        }
        job.add_source(source_path(name, name), all_parts(name));
        objects.push(self.add_compilation(job, name, name));
        let archive = archive_path(name);
        job.steps.push(Step {
            target: format!("//demo/{name}"),
            mnemonic: "CppArchive",
            arguments: [vec![self.compiler.ar.clone(), "rcsD".into(), archive.clone()], objects.clone()]
                .concat(),
            inputs: objects,
            outputs: vec![archive],
            ..Step::default()
        });
    }

    /// Compiles one file; returns the path of its object.
    fn add_compilation(&self, job: &mut Job, module: &'static str, name: &str) -> String {
        let source = source_path(module, name);
        let object = format!("out/{module}/{name}.o");
        let level = if self.optimised.contains(module) { "-O3" } else { self.level };
        let arguments = [&self.compiler.cc, level, "-Wall", "-I.", "-c", &source, "-o", &object];
        job.steps.push(Step {
            target: format!("//demo/{module}:{name}"),
            mnemonic: "CppCompile",
            arguments: arguments.map(ToOwned::to_owned).to_vec(),
            inputs: [headers_of(module), vec![source.clone()]].concat(),
            outputs: vec![object.clone()],
            must_fail: self.typo.as_ref() == Some(&source),
            ..Step::default()
        });
        object
    }

    /// Links everything, and runs it.
    fn add_program(&self, job: &mut Job) {
        job.add_source(source_path("main", "main"), self.main());
        let object = self.add_compilation(job, "main", "main");
        let archives = MODULES.iter().map(|module| archive_path(module.name));
        let inputs: Vec<String> = std::iter::once(object).chain(archives).collect();
        let program = "out/harvest".to_owned();
        let link = vec![self.compiler.cc.clone(), "-o".to_owned(), program.clone()];
        job.steps.push(Step {
            target: "//demo:harvest".to_owned(),
            mnemonic: "CppLink",
            arguments: [link, inputs.clone()].concat(),
            inputs,
            outputs: vec![program.clone()],
            ..Step::default()
        });
        let mut values = Vec::new();
        for module in &MODULES {
            let value = self.value(module);
            values.push(value);
            let arguments = vec![program.clone(), module.name.to_owned(), ROUNDS.to_string()];
            job.steps.push(test(
                &program,
                &format!("//demo/{0}:{0}_test", module.name),
                arguments,
                mix(0, value),
            ));
        }
        let total = values.into_iter().fold(0, mix);
        let arguments = vec![program.clone(), "all".to_owned(), ROUNDS_OF_ALL.to_string()];
        job.steps.push(test(&program, "//demo:harvest_test", arguments, total));
    }
}

fn test(program: &str, target: &str, arguments: Vec<String>, total: u32) -> Step {
    Step {
        target: target.to_owned(),
        mnemonic: "TestRunner",
        arguments,
        inputs: vec![program.to_owned()],
        must_say: Some(format!("total {total}")),
        ..Step::default()
    }
}

/// The kernel at a place of a part, and its size there.
fn chosen(part: usize, place: usize) -> (kernels::Kernel, u32) {
    let kernel = KERNELS[(part + place) % KERNELS.len()];
    let (least, more) = kernel.sizes;
    (kernel, least + more * part as u32)
}

/// The file that puts the parts of a module together.
fn all_parts(module: &str) -> String {
    let mut text = format!(
        "/* {module}: all parts. */\n#include \"{}\"\n\nu32 {module}_run(void) {{\n    u32 sum = 0;\n",
        header_path(module)
    );
    for part in 1..=PARTS {
        let _ = writeln!(text, "    sum = mix(sum, {}());", part_name(module, part));
    }
    text.push_str("    return sum;\n}\n");
    text
}

fn module_named(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

fn header_path(module: &str) -> String {
    format!("{module}/{module}.h")
}

fn source_path(module: &str, name: &str) -> String {
    format!("{module}/{name}.c")
}

fn archive_path(module: &str) -> String {
    format!("out/{module}/lib{module}.a")
}

fn part_name(module: &str, part: usize) -> String {
    format!("{module}_{part:02}")
}

/// All headers that the files of a module see; those of `main` see all.
fn headers_of(module: &str) -> Vec<String> {
    let mut headers: BTreeSet<String> = COMMON.iter().map(|(path, _)| (*path).to_owned()).collect();
    let mut waiting: Vec<&Module> = match module_named(module) {
        Some(module) => vec![module],
        None => MODULES.iter().collect(),
    };
    while let Some(module) = waiting.pop() {
        headers.insert(header_path(module.name));
        waiting.extend(module.includes.iter().filter_map(|name| module_named(name)));
    }
    headers.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        Program::new(Compiler { cc: "cc".into(), ar: "ar".into() }, "-O2")
    }

    /// The steps whose sources differ between two jobs, by target.
    fn changed(before: &Job, after: &Job) -> Vec<String> {
        let sources = |job: &Job, step: &Step| {
            let digests = step.inputs.iter().filter_map(|path| job.sources.get(path)).map(|blob| blob.digest);
            (digests.collect::<Vec<_>>(), step.arguments.clone())
        };
        let pairs = before.steps.iter().zip(&after.steps);
        pairs
            .filter(|(old, new)| sources(before, old) != sources(after, new))
            .map(|(_, new)| new.target.clone())
            .collect()
    }

    #[test]
    fn the_job_is_whole_and_the_same_each_time() {
        let (job, again) = (program().job(), program().job());
        job.check();
        assert_eq!(job.steps.len(), 8 * 12 + 2 + 9);
        assert!(changed(&job, &again).is_empty());
        let lines = |path: &str| String::from_utf8_lossy(&job.sources[path].data).lines().count();
        assert!((100..300).contains(&lines("field/field_01.c")), "{}", lines("field/field_01.c"));
    }

    #[test]
    fn a_header_reaches_those_who_include_it_and_no_others() {
        let mut program = program();
        let before = program.job();
        assert_eq!(program.change(), "mill/mill.h changed");
        let changed = changed(&before, &program.job());
        let has = |module: &str| changed.contains(&format!("//demo/{module}:{module}_01"));
        assert!(has("mill") && has("silo") && has("coop"), "{changed:?}");
        assert!(!has("field") && !has("barn") && !has("orchard"), "{changed:?}");
    }

    #[test]
    fn every_change_but_one_changes_something_for_ever() {
        let mut program = program();
        let mut before = program.job();
        for _ in 0..=CHANGES.len() {
            let told = program.change();
            let after = program.job();
            after.check();
            assert_eq!(changed(&before, &after).is_empty(), told == "nothing changed", "{told}");
            let mistakes = after.steps.iter().filter(|step| step.must_fail).count();
            assert_eq!(mistakes, usize::from(told.contains("fails")), "{told}");
            before = after;
        }
    }

    #[test]
    fn what_is_expected_depends_on_every_part() {
        let mut program = program();
        let field = &MODULES[0];
        let before = program.value(field);
        program.revise("field/field_03.c".to_owned());
        let after = program.value(field);
        assert_ne!(before, after);
        program.revise("pond/pond.h".to_owned());
        assert_eq!(program.value(field), after);
    }
}
