//! The backend of Goma: like Siso it cuts Execute and waits by name, and it names where the input root stands.
//! The project has ended; what still calls is an old tree.

use farmhand_proto::reapi;
use tonic::Code;

use super::{Tool, lookup, upload};
use crate::support::action::finish;
use crate::support::{ActionBuilder, Node};

const ROOT: &str = "/tmp/goma/src";

fn compile(script: &str) -> ActionBuilder {
    let mut action =
        ActionBuilder::sh(script).file("out/args.gn", "is_debug = true").working_directory("out");
    action.command.output_files = vec!["a.o".into()];
    let properties = [
        ("container-image", "none"),
        ("OSFamily", "Linux"),
        ("InputRootAbsolutePath", ROOT),
        ("dockerRuntime", ""),
        ("cache-silo", "linux"),
    ];
    properties.into_iter().fold(action, |action, (name, value)| action.property(name, value))
}

#[tokio::test]
async fn the_input_root_stands_where_it_says() {
    let node = Node::start();
    let client = node.client_of("goma").await;
    let tool = Tool::new("remoteexec_proxy", "2021");
    let action = compile("pwd > a.o; cat args.gn >> a.o");
    let digest = upload(&tool, &client, &action).await;
    let missing = tool.looks_up(&client, lookup(&client, &digest)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);

    let request = tool.says(action.execute_request(&client, &digest));
    let mut stream = client.execution().execute(request).await.unwrap().into_inner();
    let name = stream.message().await.unwrap().unwrap().name;
    drop(stream);
    let request = tool.says(reapi::WaitExecutionRequest { name });
    let stream = client.execution().wait_execution(request).await.unwrap().into_inner();
    let outcome = finish(stream, digest).await.unwrap();
    outcome.success();
    let made = outcome.output(&client, "a.o").await;
    assert_eq!(made, format!("{ROOT}/out\nis_debug = true").as_bytes());
    assert_eq!(tool.looks_up(&client, lookup(&client, &digest)).await.unwrap().exit_code, 0);
}
