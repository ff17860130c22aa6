use std::time::{Duration, SystemTime};
use farmhand::history::{Filter, History, Record};
use farmhand::history::record::Definition;
use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::{control, reapi, time::{timestamp, duration}};
use prost::Message;
fn rss() -> u64 { let s = std::fs::read_to_string("/proc/self/status").unwrap(); s.lines().find(|l| l.starts_with("RssAnon")).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap() }
fn dg(n: u64, what: &str) -> Digest { Digest::of(DigestFunction::Sha256, format!("{what}{n}").as_bytes()) }
fn record(n: u64) -> Record {
    let action = dg(n, "a");
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_000 + n * 50_000);
    let target = n % 20_000;
    let op = control::Operation {
        name: format!("operations/{}", uuid::Uuid::new_v4()),
        action_digest: action.to_string(), stage: 3, machine: "attic".into(), kind: 1,
        queued: Some(timestamp(at)), started: Some(timestamp(at)), finished: Some(timestamp(at + Duration::from_millis(1234))),
        command_started: Some(timestamp(at)), command_ended: Some(timestamp(at)), attempts: 1,
        target: format!("//some/package/dir{}:library_{target}", target / 30), mnemonic: if n % 10 == 0 { "CppLink".into() } else { "CppCompile".into() },
        invocation: format!("3f1a7f3e-0000-4000-8000-{:012}", n / 10_000), tool: "bazel 8.1.0".into(),
        first_output: format!("bazel-out/k8-fastbuild/bin/some/package/dir{}/_objs/library_{target}/file.pic.o", target / 30),
        cpu_time: Some(duration(Duration::from_millis(900 + n % 100))), peak_memory: 100_000_000 + n * 4096 % 50_000_000, sequence: 1_700_000_000_000_000 + n * 50_000,
        ..Default::default() };
    let result = reapi::ActionResult { stdout_digest: Some(dg(0,"").to_wire()), stderr_digest: Some(dg(n % 50, "e").to_wire()),
        output_files: ["file.pic.o", "file.pic.d"].iter().map(|f| reapi::OutputFile { path: format!("bazel-out/k8-fastbuild/bin/some/package/dir{}/_objs/library_{target}/{f}", target/30), digest: Some(dg(n, f).to_wire()), ..Default::default() }).collect(),
        execution_metadata: Some(reapi::ExecutedActionMetadata { worker: "attic".into(), queued_timestamp: Some(timestamp(at)), worker_start_timestamp: Some(timestamp(at)), execution_start_timestamp: Some(timestamp(at)), execution_completed_timestamp: Some(timestamp(at)), ..Default::default() }), ..Default::default() };
    let miss = control::Miss { kind: 3, summary: format!("some/package/dir/foo.h changed ({} → {}), and 2 more inputs", &action.hash_hex()[..8], &dg(n,"x").hash_hex()[..8]), earlier_digest: dg(n, "old").to_string(),
        differences: (0..3).map(|i| control::Difference { kind: 1, name: format!("some/package/dir/foo{i}.h"), old: dg(n+i, "o").to_string(), new: dg(n+i,"p").to_string() }).collect(), total_differences: 3, earlier_finished: Some(timestamp(at)) };
    { let miss = (n % 4 != 0).then_some(miss); Record { operation: op, definition: Some(Definition { command: dg(n, "c").to_key().to_vec(), input_root: dg(n, "r").to_key().to_vec(), program: "/usr/bin/gcc".into(), ..Default::default() }),
        result: Some(result.encode_to_vec()), kept: true, ..Default::default() }.explained(miss) }
}
#[tokio::main(flavor = "current_thread")]
async fn main() {
    tracing_subscriber::fmt().init();
    let args: Vec<String> = std::env::args().collect();
    let path = std::path::PathBuf::from(&args[2]);
    if args[1] == "fill" {
        let count: u64 = args[3].parse().unwrap();
        let hits = args.get(4).is_some();
        let history = History::open(&path, 100_000);
        let begin = tokio::time::Instant::now();
        for n in 0..count {
            let mut r = record(n);
            if hits && n % 2 == 0 { r.operation.cached = true; r.definition = None; r.miss = None; r.result = None; }
            history.remember(r); if n % 500 == 0 { history.settle().await; tokio::time::sleep(Duration::from_millis(100)).await; } }
        history.settle().await; history.close();
        println!("filled {count} in {:?}, rss {} kB", begin.elapsed(), rss());
        return;
    }
    let before = rss();
    let begin = tokio::time::Instant::now();
    let history = History::open(&path, 100_000);
    println!("open {:?}, rss {before} -> {} kB", begin.elapsed(), rss());
    for (what, f) in [("all", control::ActionFilter::default()), ("mnemonic+target", control::ActionFilter { target: "dir66:".into(), mnemonic: "CppLink".into(), ..Default::default() }), ("nothing found", control::ActionFilter { target: "zzz".into(), ..Default::default() }),
       ("since (last 1%)", control::ActionFilter { since: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_000 + 99_000 * 50_000))), ..Default::default() })] {
        let begin = tokio::time::Instant::now(); let mut first = None;
        let (mut n, mut pages, mut at) = (0, 0, u64::MAX);
        loop { let p = history.page(Filter::new(Some(f.clone())), at, 1000).await.unwrap(); n += p.operations.len(); pages += 1; first.get_or_insert(begin.elapsed()); match p.next { Some(x) => at = x, None => break } }
        println!("scan {what}: {n} found in {pages} pages, first {:?}, all {:?}, rss {}", first.unwrap(), begin.elapsed(), rss());
    }
    for n in [99_999_u64, 50_000, 10, 1_000_000] {
        let begin = tokio::time::Instant::now();
        let found = history.of_action(dg(n, "a"), u64::MAX, 20).await.unwrap();
        println!("look-up {n}: {} in {:?}, rss {}", found.len(), begin.elapsed(), rss());
    }
    let begin = tokio::time::Instant::now();
    let p = history.page(Filter::new(None), u64::MAX, 100).await.unwrap();
    println!("first page of {}: {:?}", p.operations.len(), begin.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("in the end rss {}", rss());
}
