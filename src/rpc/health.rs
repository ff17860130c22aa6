//! `grpc.health.v1.Health`: a node that answers serves all it has.
//!
//! Load balancers and `grpc_health_probe` ask for it, some for a service by name.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

/// The services that are told of.
const SERVICES: [&str; 9] = [
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.Execution",
    "build.bazel.remote.asset.v1.Fetch",
    "build.bazel.remote.asset.v1.Push",
    "build.bazel.remote.logstream.v1.LogStreamService",
    "google.bytestream.ByteStream",
    "google.longrunning.Operations",
];

/// The service for [`Routes`](tonic::service::Routes).
pub async fn server() -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    tell(&reporter).await;
    server
}

async fn tell(reporter: &HealthReporter) {
    for service in SERVICES {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
}
