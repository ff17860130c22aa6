"""The protocol buffer rules that Bazel itself still carries, under the names rules_proto gives them."""

proto_lang_toolchain = native.proto_lang_toolchain
proto_library = native.proto_library
