//! DWARF out, BTF stays: a fifth of the size, and all that the kernel looks at.
//!
//! Sections keep their numbers, so symbols and relocations stay as they are; those with debugging
//! information become null sections without bytes. (LLVM puts section and symbol names into one
//! table, which is more than `object`'s rewriter takes; and no objcopy is at hand everywhere.)

/// `Elf64_Ehdr`: its size, and where the section headers' offset and number stand.
const FILE_HEADER: usize = 64;
const OFFSET_OF_HEADERS: usize = 40;
const NUMBER_OF_HEADERS: usize = 60;
const NAMES: usize = 62;
/// `Elf64_Shdr`.
const SECTION_HEADER: usize = 64;

/// Removes the sections with debugging information, and the relocations that belong to them.
pub(crate) fn debug(object: &[u8]) -> Result<Vec<u8>, String> {
    strip(object).ok_or_else(|| "the eBPF object is not ELF as LLVM writes it".to_owned())
}

fn strip(object: &[u8]) -> Option<Vec<u8>> {
    let start = usize::try_from(number(object, OFFSET_OF_HEADERS, 8)?).ok()?;
    let count = usize::try_from(number(object, NUMBER_OF_HEADERS, 2)?).ok()?;
    let headers = object.get(start..start + count * SECTION_HEADER)?;
    let mut headers: Vec<Vec<u8>> = headers.chunks(SECTION_HEADER).map(<[u8]>::to_vec).collect();
    let names = usize::try_from(number(object, NAMES, 2)?).ok()?;
    let names = part(object, headers.get(names)?)?;
    let mut stripped = object.get(..FILE_HEADER)?.to_vec();
    for header in &mut headers {
        let name = names.get(usize::try_from(number(header, 0, 4)?).ok()?..)?;
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            header[4..].fill(0);
            continue;
        }
        let bytes = part(object, header)?;
        let alignment = usize::try_from(number(header, 48, 8)?.max(1)).ok()?;
        stripped.resize(stripped.len().next_multiple_of(alignment), 0);
        header[24..32].copy_from_slice(&(stripped.len() as u64).to_le_bytes());
        stripped.extend_from_slice(bytes);
    }
    stripped.resize(stripped.len().next_multiple_of(8), 0);
    let end = stripped.len() as u64;
    stripped[OFFSET_OF_HEADERS..OFFSET_OF_HEADERS + 8].copy_from_slice(&end.to_le_bytes());
    headers.iter().for_each(|header| stripped.extend_from_slice(header));
    Some(stripped)
}

/// A section's bytes; none in a null section.
fn part<'a>(object: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(number(header, 24, 8)?).ok()?;
    let size = usize::try_from(number(header, 32, 8)?).ok()?;
    object.get(start..start.checked_add(size)?)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}
