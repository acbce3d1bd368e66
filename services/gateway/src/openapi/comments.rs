//! Comments of the proto files.

use prost_reflect::FileDescriptor;

/// The comment before the thing with that path.
pub(super) fn of(file: &FileDescriptor, path: &[i32]) -> String {
    let proto = file.file_descriptor_proto();
    let locations = proto.source_code_info.iter().flat_map(|info| &info.location);
    let found = locations.into_iter().find(|l| l.path == path);
    let text = found.map(|l| l.leading_comments().to_owned()).unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}
