//! Compiles `proto/` with protox (no protoc needed), refuses wrong policies, undocumented or unbounded parts,
//! and generates the gRPC code.

use std::error::Error;
use std::path::{Path, PathBuf};

#[path = "src/permission.rs"]
#[expect(dead_code, reason = "shared with the library; the build uses a part of it")]
mod permission;
#[path = "src/policy.rs"]
#[expect(dead_code, reason = "shared with the library; the build uses a part of it")]
mod policy;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // The encoded form keeps our options; the typed one drops them (facts: gateway).
    let encoded = compiler.encode_file_descriptor_set();
    let pool = prost_reflect::DescriptorPool::decode(encoded.as_slice())?;

    let mut problems = policy::read(&pool).err().unwrap_or_default();
    undocumented(&compiler.file_descriptor_set(), &mut problems);
    if !problems.is_empty() {
        return Err(format!("the proto files are not complete:\n  {}", problems.join("\n  ")).into());
    }

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure()
        .bytes(".nitejar.sprites.v1")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Every service, RPC, message and field of ours has a comment: it becomes the API reference.
fn undocumented(set: &prost_types::FileDescriptorSet, problems: &mut Vec<String>) {
    for file in set.file.iter().filter(|f| f.package().starts_with("nitejar.")) {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let documented: std::collections::HashSet<Vec<i32>> =
            locations.filter(|l| !l.leading_comments().trim().is_empty()).map(|l| l.path.clone()).collect();
        let mut need = |path: Vec<i32>, name: String| {
            if !documented.contains(&path) {
                problems.push(format!("{}: {name} has no comment", file.name()));
            }
        };
        for (i, message) in (0..).zip(&file.message_type) {
            need(vec![4, i], message.name().to_owned());
            for (j, field) in (0..).zip(&message.field) {
                need(vec![4, i, 2, j], format!("{}.{}", message.name(), field.name()));
            }
        }
        for (i, service) in (0..).zip(&file.service) {
            need(vec![6, i], service.name().to_owned());
            for (j, method) in (0..).zip(&service.method) {
                need(vec![6, i, 2, j], format!("{}.{}", service.name(), method.name()));
            }
        }
    }
}
