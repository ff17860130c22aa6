//! `grpc.reflection.v1` and `v1alpha`: what the services are made of, for tools such as grpcurl, which know no API
//! by themselves.

use farmhand_proto::DESCRIPTORS;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

/// Adds the services that tell of those which clients may call, and of themselves.
pub fn add_to(mut routes: Routes) -> Routes {
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(current), Ok(former)) => routes = routes.add_service(current).add_service(former),
        (Err(error), _) | (_, Err(error)) => unfit(&error),
    }
    routes
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn unfit(error: &Error) {
    tracing::error!(%error, "the APIs cannot be told of, since their descriptors do not fit together");
}
