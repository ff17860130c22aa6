//! Descriptors of the published APIs, out of the code of `bazel-remote-apis`, which comes without them: what
//! reflection tells of an API this way is what is served.
//!
//! It reads what prost and tonic write: structs with `#[prost(...)]` fields, the modules of nested messages,
//! enumerations with their names, and the traits of servers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, MethodDescriptorProto, OneofDescriptorProto,
    ServiceDescriptorProto,
};
use protox::file::{FileResolver, GoogleFileResolver};
use syn::{Item, Meta};

/// The packages, and the file that each is published in.
const PACKAGES: [(&str, &str); 7] = [
    ("google.rpc", "google/rpc/status.proto"),
    ("google.longrunning", "google/longrunning/operations.proto"),
    ("google.bytestream", "google/bytestream/bytestream.proto"),
    ("build.bazel.semver", "build/bazel/semver/semver.proto"),
    ("build.bazel.remote.execution.v2", "build/bazel/remote/execution/v2/remote_execution.proto"),
    ("build.bazel.remote.asset.v1", "build/bazel/remote/asset/v1/remote_asset.proto"),
    ("build.bazel.remote.logstream.v1", "build/bazel/remote/logstream/v1/remote_logstream.proto"),
];

/// Types that come with protobuf, and the file that each is in.
const WELL_KNOWN: [(&str, &str); 5] = [
    ("Any", "google/protobuf/any.proto"),
    ("Duration", "google/protobuf/duration.proto"),
    ("Empty", "google/protobuf/empty.proto"),
    ("UInt32Value", "google/protobuf/wrappers.proto"),
    ("Timestamp", "google/protobuf/timestamp.proto"),
];

/// Where a Rust type of the crate is: its modules, and its name.
type RustPath = Vec<String>;

/// What a type is in protobuf.
#[derive(Clone)]
struct Known {
    /// With its package, and a dot in front.
    name: String,
    file: String,
}

/// All of the crate that is told of.
#[derive(Default)]
struct Crate {
    types: BTreeMap<RustPath, Known>,
    oneofs: BTreeMap<RustPath, syn::ItemEnum>,
    enum_names: BTreeMap<RustPath, BTreeMap<String, String>>,
}

/// One module: that of a package, or of what is nested in a message.
struct Scope<'a> {
    all: &'a Crate,
    path: RustPath,
    items: &'a [Item],
    /// Files that it refers to.
    uses: &'a mut BTreeSet<String>,
}

/// A `#[prost(...)]` attribute: what is said, and the string behind it where there is one.
type Said = BTreeMap<String, String>;

/// The descriptors of all of them, encoded, out of the sources in `directory`.
pub(crate) fn encoded(directory: &Path) -> Vec<u8> {
    let sources = PACKAGES.map(|(package, _)| {
        std::fs::read_to_string(directory.join(format!("{package}.rs"))).expect("the crate has this package")
    });
    let parsed = sources.each_ref().map(|source| syn::parse_file(source).expect("it is Rust"));
    let mut all = Crate::default();
    for (name, file) in WELL_KNOWN {
        let path = ["google", "protobuf", name].map(str::to_owned).to_vec();
        all.types.insert(path, Known { name: format!(".google.protobuf.{name}"), file: file.to_owned() });
    }
    for ((package, file), parsed) in PACKAGES.iter().zip(&parsed) {
        all.learn(&modules(package), &format!(".{package}"), file, &parsed.items);
    }
    let published: Vec<_> = PACKAGES
        .iter()
        .zip(parsed.iter().zip(&sources))
        .map(|((package, file), (parsed, source))| all.file(package, file, &parsed.items, source))
        .collect();
    let used: BTreeSet<_> = published.iter().flat_map(|file| file.dependency.clone()).collect();
    let well_known = WELL_KNOWN.iter().map(|(_, file)| *file).collect::<BTreeSet<_>>();
    let google = well_known.into_iter().filter(|file| used.contains(*file)).map(|name| {
        let found = GoogleFileResolver::new().open_file(name).expect("protox has it");
        FileDescriptorProto { source_code_info: None, ..found.file_descriptor_proto().clone() }
    });
    FileDescriptorSet { file: google.chain(published).collect() }.encode_to_vec()
}

fn modules(package: &str) -> RustPath {
    package.split('.').map(str::to_owned).collect()
}

// === impl Crate ===

impl Crate {
    /// Takes in what a module has; `prefix` is what the names of its types begin with.
    fn learn(&mut self, path: &[String], prefix: &str, file: &str, items: &[Item]) {
        for item in items {
            match item {
                Item::Struct(message) => self.add(path, &message.ident, prefix, file),
                Item::Enum(choice) if derives(&choice.attrs, "Oneof") => {
                    self.oneofs.insert(below(path, &choice.ident), choice.clone());
                }
                Item::Enum(values) => self.add(path, &values.ident, prefix, file),
                Item::Impl(methods) => self.learn_names(path, methods),
                Item::Mod(module) => {
                    let (Some(parent), Some((_, inner))) = (parent(&module.ident, items), &module.content)
                    else {
                        continue;
                    };
                    self.learn(&below(path, &module.ident), &format!("{prefix}.{parent}"), file, inner);
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, path: &[String], name: &syn::Ident, prefix: &str, file: &str) {
        let known = Known { name: format!("{prefix}.{name}"), file: file.to_owned() };
        self.types.insert(below(path, name), known);
    }

    /// The names of the values of an enumeration, which its `as_str_name` tells.
    fn learn_names(&mut self, path: &[String], methods: &syn::ItemImpl) {
        let syn::Type::Path(of) = &*methods.self_ty else { return };
        for item in &methods.items {
            let syn::ImplItem::Fn(method) = item else { continue };
            let Some(syn::Stmt::Expr(syn::Expr::Match(choice), _)) = method.block.stmts.first() else {
                continue;
            };
            if method.sig.ident != "as_str_name" {
                continue;
            }
            let names = choice.arms.iter().map(|arm| {
                let (syn::Pat::Path(value), syn::Expr::Lit(name)) = (&arm.pat, &*arm.body) else {
                    panic!("an arm of as_str_name is of another kind");
                };
                let syn::Lit::Str(name) = &name.lit else { panic!("a name is a string") };
                (last(&value.path), name.value())
            });
            self.enum_names.insert(below(path, &of.path.segments[0].ident), names.collect());
        }
    }

    fn file(&self, package: &str, name: &str, items: &[Item], source: &str) -> FileDescriptorProto {
        let mut uses = BTreeSet::new();
        let mut scope = Scope { all: self, path: modules(package), items, uses: &mut uses };
        let (message_type, enum_type) = scope.types();
        let service = scope.services(package, source);
        uses.remove(name);
        FileDescriptorProto {
            name: Some(name.to_owned()),
            package: Some(package.to_owned()),
            dependency: uses.into_iter().collect(),
            message_type,
            enum_type,
            service,
            syntax: Some("proto3".to_owned()),
            ..FileDescriptorProto::default()
        }
    }
}

// === impl Scope ===

impl Scope<'_> {
    /// The messages and enumerations of this module.
    fn types(&mut self) -> (Vec<DescriptorProto>, Vec<EnumDescriptorProto>) {
        let (mut messages, mut enums) = (Vec::new(), Vec::new());
        for item in self.items {
            match item {
                Item::Struct(message) => messages.push(self.message(message)),
                Item::Enum(values) if !derives(&values.attrs, "Oneof") => {
                    enums.push(self.enumeration(values))
                }
                _ => {}
            }
        }
        (messages, enums)
    }

    fn message(&mut self, message: &syn::ItemStruct) -> DescriptorProto {
        let mut descriptor = DescriptorProto { name: Some(message.ident.to_string()), ..Default::default() };
        let module = message.ident.to_string().to_snake_case();
        let nested = self.items.iter().find_map(|item| match item {
            Item::Mod(found) if found.ident == module => Some(&found.content.as_ref()?.1),
            _ => None,
        });
        if let Some(items) = nested {
            let mut path = self.path.clone();
            path.push(module);
            let mut inner = Scope { all: self.all, path, items, uses: self.uses };
            (descriptor.nested_type, descriptor.enum_type) = inner.types();
        }
        for field in &message.fields {
            let name = field.ident.as_ref().expect("fields have names").to_string();
            let said = said(&field.attrs);
            let name = name.trim_start_matches("r#");
            match said.get("oneof") {
                Some(choice) => self.oneof(name, choice, &mut descriptor),
                None => self.field(name, &said, &field.ty, &mut descriptor),
            }
        }
        descriptor
    }

    /// The fields of which one is set at most.
    fn oneof(&mut self, name: &str, choice: &str, descriptor: &mut DescriptorProto) {
        let index = descriptor.oneof_decl.len() as i32;
        descriptor
            .oneof_decl
            .push(OneofDescriptorProto { name: Some(name.to_owned()), ..Default::default() });
        let path = self.resolve(&syn::parse_str(choice).expect("a path"));
        let all = self.all;
        for variant in &all.oneofs[&path].variants {
            let field = variant.fields.iter().next().expect("a variant has its value");
            let name = variant.ident.to_string().to_snake_case();
            // Paths in it begin at the module it is in.
            let at = std::mem::replace(&mut self.path, path[..path.len() - 1].to_vec());
            self.field(&name, &said(&variant.attrs), &field.ty, descriptor);
            self.path = at;
            if let Some(field) = descriptor.field.last_mut() {
                field.oneof_index = Some(index);
            }
        }
    }

    fn field(&mut self, name: &str, said: &Said, of: &syn::Type, descriptor: &mut DescriptorProto) {
        let is_repeated = said.contains_key("repeated") || said.contains_key("map");
        let mut field = FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(said["tag"].parse().expect("a number")),
            label: Some(if is_repeated { Label::Repeated } else { Label::Optional } as i32),
            ..Default::default()
        };
        if let Some(kinds) = said.get("map") {
            let entry = format!("{}Entry", name.to_upper_camel_case());
            self.map(&entry, kinds, of, descriptor);
            let path = [self.path.clone(), vec![descriptor.name().to_owned()]].concat();
            let message = &self.all.types[&path].name;
            field.r#type = Some(Type::Message as i32);
            field.type_name = Some(format!("{message}.{entry}"));
        } else {
            let (kind, type_name) = self.kind(said, of);
            assert!(
                kind == Type::Message || !said.contains_key("optional"),
                "{name}: a scalar that may be absent is not known here"
            );
            (field.r#type, field.type_name) = (Some(kind as i32), type_name);
        }
        descriptor.field.push(field);
    }

    /// What a map is on the wire: entries.
    fn map(&mut self, entry: &str, kinds: &str, of: &syn::Type, descriptor: &mut DescriptorProto) {
        let mut message = DescriptorProto {
            name: Some(entry.to_owned()),
            options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
            ..Default::default()
        };
        for (number, (name, kind)) in ["key", "value"].into_iter().zip(kinds.split(", ")).enumerate() {
            let number = (number + 1).to_string();
            let said = [(kind.to_owned(), String::new()), ("tag".to_owned(), number)].into();
            self.field(name, &said, of, &mut message);
        }
        descriptor.nested_type.push(message);
    }

    /// The kind of a field, and the name of its type where it has one.
    fn kind(&mut self, said: &Said, of: &syn::Type) -> (Type, Option<String>) {
        let kind = |(word, value): (&String, &String)| {
            Some(match &**word {
                "message" => (Type::Message, Some(innermost(of).clone())),
                "enumeration" => (Type::Enum, Some(syn::parse_str(value).expect("a path"))),
                "string" => (Type::String, None),
                "bytes" => (Type::Bytes, None),
                "bool" => (Type::Bool, None),
                "int32" => (Type::Int32, None),
                "uint32" => (Type::Uint32, None),
                "int64" => (Type::Int64, None),
                "uint64" => (Type::Uint64, None),
                _ => return None,
            })
        };
        let (kind, path) = said.iter().find_map(kind).unwrap_or_else(|| panic!("an unknown kind: {said:?}"));
        (kind, path.map(|path| self.refer(&path)))
    }

    /// The name of a type that something refers to.
    fn refer(&mut self, path: &syn::Path) -> String {
        let path = self.resolve(path);
        let known = self.all.types.get(&path).unwrap_or_else(|| panic!("an unknown type: {path:?}"));
        self.uses.insert(known.file.clone());
        known.name.clone()
    }

    /// A path, from the top of the crate.
    fn resolve(&self, path: &syn::Path) -> RustPath {
        let mut at = self.path.clone();
        for segment in &path.segments {
            if segment.ident == "super" {
                at.pop();
            } else {
                at.push(segment.ident.to_string());
            }
        }
        at
    }

    fn enumeration(&self, values: &syn::ItemEnum) -> EnumDescriptorProto {
        let names = &self.all.enum_names[&below(&self.path, &values.ident)];
        let value = values.variants.iter().map(|variant| {
            let (_, number) = variant.discriminant.as_ref().expect("a value has its number");
            let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(number), .. }) = number else {
                panic!("a value is a number");
            };
            EnumValueDescriptorProto {
                name: Some(names[&variant.ident.to_string()].clone()),
                number: Some(number.base10_parse().expect("a number")),
                ..Default::default()
            }
        });
        EnumDescriptorProto {
            name: Some(values.ident.to_string()),
            value: value.collect(),
            ..Default::default()
        }
    }

    /// The services, out of the traits of their servers. `source` has the paths of their methods.
    fn services(&mut self, package: &str, source: &str) -> Vec<ServiceDescriptorProto> {
        let mut services = Vec::new();
        for item in self.items {
            let Item::Mod(module) = item else { continue };
            let Some((_, items)) = &module.content else { continue };
            if !module.ident.to_string().ends_with("_server") {
                continue;
            }
            let server = items.iter().find_map(|item| match item {
                Item::Trait(server) => Some(server),
                _ => None,
            });
            let server = server.expect("a server has its trait");
            self.path.push(module.ident.to_string());
            let method = server.items.iter().filter_map(|item| match item {
                syn::TraitItem::Fn(method) => Some(self.method(server, method)),
                _ => None,
            });
            let service = ServiceDescriptorProto {
                name: Some(server.ident.to_string()),
                method: method.collect(),
                ..Default::default()
            };
            self.path.pop();
            for method in &service.method {
                let path = format!("\"/{package}.{}/{}\"", service.name(), method.name());
                assert!(source.contains(&path), "no call of {path}");
            }
            services.push(service);
        }
        services
    }

    fn method(&mut self, server: &syn::ItemTrait, method: &syn::TraitItemFn) -> MethodDescriptorProto {
        let Some(syn::FnArg::Typed(request)) = method.sig.inputs.last() else { panic!("a method is asked") };
        let syn::ReturnType::Type(_, answer) = &method.sig.output else { panic!("a method answers") };
        let (asked, answered) = (innermost(&request.ty), innermost(answer));
        let stream = answered.segments.first().filter(|first| first.ident == "Self").map(|_| {
            let of = server.items.iter().find_map(|item| match item {
                syn::TraitItem::Type(stream) if stream.ident == last(answered) => Some(item_of(stream)),
                _ => None,
            });
            of.expect("a stream has its type")
        });
        MethodDescriptorProto {
            name: Some(method.sig.ident.to_string().to_upper_camel_case()),
            input_type: Some(self.refer(asked)),
            output_type: Some(self.refer(stream.unwrap_or(answered))),
            client_streaming: mentions(&request.ty, "Streaming").then_some(true),
            server_streaming: stream.is_some().then_some(true),
            ..Default::default()
        }
    }
}

fn below(path: &[String], name: &syn::Ident) -> RustPath {
    [path, &[name.to_string()]].concat()
}

/// The message whose nested types are in a module of that name.
fn parent(module: &syn::Ident, items: &[Item]) -> Option<String> {
    items.iter().find_map(|item| match item {
        Item::Struct(message) => {
            let name = message.ident.to_string();
            (*module == name.to_snake_case()).then_some(name)
        }
        _ => None,
    })
}

fn derives(attributes: &[syn::Attribute], what: &str) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => attribute.path().is_ident("derive") && list.tokens.to_string().contains(what),
        _ => false,
    })
}

fn said(attributes: &[syn::Attribute]) -> Said {
    let mut said = Said::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("prost")) {
        let parsed = attribute.parse_nested_meta(|meta| {
            let value = match meta.value() {
                Ok(value) => value.parse::<syn::LitStr>()?.value(),
                Err(_) => String::new(),
            };
            said.insert(last(&meta.path), value);
            Ok(())
        });
        parsed.expect("prost wrote it");
    }
    said
}

fn last(path: &syn::Path) -> String {
    path.segments.last().expect("a path is not empty").ident.to_string()
}

/// What is within `Option`, `Vec`, `Request` and the like; of a map, its value; of a result, what is right.
fn innermost(of: &syn::Type) -> &syn::Path {
    let syn::Type::Path(of) = of else { panic!("a type is a path") };
    let segment = of.path.segments.last().expect("a path is not empty");
    let syn::PathArguments::AngleBracketed(within) = &segment.arguments else { return &of.path };
    let mut types = within.args.iter().filter_map(|argument| match argument {
        syn::GenericArgument::Type(within) => Some(within),
        _ => None,
    });
    let first = types.next().expect("something is within");
    innermost(if segment.ident == "HashMap" { types.next().expect("a map has values") } else { first })
}

/// What the items of a stream are.
fn item_of(stream: &syn::TraitItemType) -> &syn::Path {
    let item = stream.bounds.iter().find_map(|bound| {
        let syn::TypeParamBound::Trait(bound) = bound else { return None };
        let syn::PathArguments::AngleBracketed(within) = &bound.path.segments.last()?.arguments else {
            return None;
        };
        within.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::AssocType(item) => Some(&item.ty),
            _ => None,
        })
    });
    innermost(item.expect("a stream has items"))
}

fn mentions(of: &syn::Type, word: &str) -> bool {
    let syn::Type::Path(of) = of else { return false };
    of.path.segments.iter().any(|segment| {
        let syn::PathArguments::AngleBracketed(within) = &segment.arguments else {
            return segment.ident == word;
        };
        let mut within = within.args.iter();
        segment.ident == word
            || within.any(|inner| matches!(inner, syn::GenericArgument::Type(inner) if mentions(inner, word)))
    })
}
