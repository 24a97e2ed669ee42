//! Functions of an ELF file, where they lie in it, and their code.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::{Range, RangeInclusive},
    os::unix::fs::FileExt as _,
};

use object::{
    Architecture, Object as _, ObjectKind, ObjectSection as _, ObjectSegment as _,
    ObjectSymbol as _, ReadCache, ReadRef, SegmentFlags, SymbolKind,
    elf::{
        DT_NULL, DT_RELA, DT_RELASZ, PF_W, PF_X, PT_DYNAMIC, R_AARCH64_RELATIVE, R_X86_64_RELATIVE,
    },
    read::{Result as ReadResult, elf::ProgramHeader as _},
};

use super::scan;

/// Entries of a table of functions that are read at most.
const FUNCTIONS: u32 = 4_000_000;

/// Segments and sections that are taken in at most.
const PARTS: usize = 4096;

/// Bytes of tables and names that are read at most: whoever may execute a file can make it say anything.
const TABLES: u64 = 192 << 20;

/// What it costs to keep a name, beside its length, in bytes.
const NAME: u64 = 64;

/// Bytes of a build id that tells builds apart.
const BUILD_ID: RangeInclusive<usize> = 8..=64;

/// Addresses end here (x86-64 with four levels of page tables).
const ADDRESSES: u64 = 1 << 47;

/// What is needed of an ELF file.
#[derive(Debug)]
pub struct Elf {
    file: File,
    architecture: Architecture,
    fixed: bool,
    build_id: Option<Vec<u8>>,
    functions: HashMap<String, u64>,
    objects: HashMap<String, u64>,
    /// Functions that others must provide.
    imports: HashSet<String>,
    segments: Vec<Segment>,
    sections: HashMap<String, Range<u64>>,
    /// What the dynamic linker goes by (elf(5), `PT_DYNAMIC`).
    dynamic: Option<Range<u64>>,
}

/// A loadable segment (elf(5), `PT_LOAD`).
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    bytes: u64,
    executable: bool,
    writable: bool,
}

/// What `.eh_frame_hdr` tells of functions.
#[derive(Debug, Default)]
pub struct UnwindTable {
    /// Where a function begins, and where its description is; sorted.
    entries: Vec<(u64, u64)>,
}

impl UnwindTable {
    /// Whether a function, or a part of one that lies apart, begins at the address.
    pub fn is_start(&self, address: u64) -> bool {
        self.entries
            .binary_search_by_key(&address, |entry| entry.0)
            .is_ok()
    }

    /// The function, or the part of one, that an address lies in.
    pub fn range(&self, elf: &Elf, address: u64) -> Option<Range<u64>> {
        let next = self.entries.partition_point(|entry| entry.0 <= address);
        let (start, description) = *self.entries.get(next.checked_sub(1)?)?;
        // Length, CIE, first address and number of bytes, `DW_EH_PE_pcrel | DW_EH_PE_sdata4`.
        let mut words = [0; 16];
        elf.read_exact(description, &mut words).ok()?;
        let word = |at: usize| {
            i32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        let first = (description + 8).wrapping_add_signed(i64::from(word(8)));
        let range = start..start.checked_add(u64::try_from(word(12)).ok()?)?;
        (first == start && range.contains(&address)).then_some(range)
    }
}

/// A file of which only so much is read and kept.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    cache: &'a ReadCache<&'a File>,
    left: &'a Cell<u64>,
}

impl Bounded<'_> {
    fn spend(self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for Bounded<'a> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.spend(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let name = self.cache.read_bytes_at_until(range, delimiter)?;
        self.spend(name.len() as u64 + NAME)?;
        Ok(name)
    }
}

impl Segment {
    fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.bytes)
    }
}

impl Elf {
    /// Reads the symbols of a file whose name `wanted` accepts. Only what is needed is read.
    ///
    /// # Errors
    ///
    /// The file is no ELF file, or is malformed.
    pub fn read(file: &File, wanted: impl Fn(&str) -> bool) -> ReadResult<Self> {
        Self::parse(file, Some(wanted))
    }

    /// Reads a file, but none of its symbols.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn outline(file: &File) -> ReadResult<Self> {
        Self::parse(file, None::<fn(&str) -> bool>)
    }

    fn parse(file: &File, wanted: Option<impl Fn(&str) -> bool>) -> ReadResult<Self> {
        let cache = ReadCache::new(file);
        let left = Cell::new(TABLES);
        let bounded = Bounded {
            cache: &cache,
            left: &left,
        };
        let length = bounded.len().unwrap_or(0);
        let object = object::File::parse(bounded)?;
        let segments = object
            .segments()
            .take(PARTS)
            .map(|segment| {
                let (offset, bytes) = segment.file_range();
                let bytes = bytes.min(length.saturating_sub(offset));
                let flags = match segment.flags() {
                    SegmentFlags::Elf { p_flags } => p_flags,
                    _ => 0,
                };
                Segment {
                    address: segment.address(),
                    offset,
                    bytes,
                    executable: flags & PF_X != 0,
                    writable: flags & PF_W != 0,
                }
            })
            .filter(|segment: &Segment| segment.range().end <= ADDRESSES)
            .collect();
        let mut functions = HashMap::new();
        let mut objects = HashMap::new();
        let mut imports = HashSet::new();
        let symbols = wanted
            .iter()
            .flat_map(|_| object.symbols().chain(object.dynamic_symbols()));
        let wanted = |name: &str| wanted.as_ref().is_some_and(|wanted| wanted(name));
        for symbol in symbols {
            let is_function = match symbol.kind() {
                SymbolKind::Text => true,
                SymbolKind::Data => false,
                _ => continue,
            };
            if let Ok(name) = symbol.name()
                && wanted(name)
            {
                match (is_function, symbol.is_undefined()) {
                    (true, true) => {
                        imports.insert(name.to_owned());
                    }
                    (true, false) => {
                        functions.insert(name.to_owned(), symbol.address());
                    }
                    (false, true) => {}
                    (false, false) => {
                        objects.insert(name.to_owned(), symbol.address());
                    }
                }
            }
        }
        let sections = object
            .sections()
            .take(PARTS)
            .filter_map(|section| {
                let start = section.address();
                let end = start.checked_add(section.size())?;
                (start != 0).then_some((section.name().ok()?.to_owned(), start..end))
            })
            .collect();
        let build_id = object.build_id().ok().flatten();
        let build_id = build_id.filter(|id| BUILD_ID.contains(&id.len()));
        let dynamic = match &object {
            object::File::Elf64(file) => file.elf_program_headers().iter().find_map(|header| {
                let endian = file.endian();
                let start = header.p_vaddr(endian);
                (header.p_type(endian) == PT_DYNAMIC)
                    .then(|| start..start.saturating_add(header.p_filesz(endian)))
            }),
            _ => None,
        };
        Ok(Self {
            file: file
                .try_clone()
                .map_err(|_| object_error("the file cannot be kept open"))?,
            architecture: object.architecture(),
            fixed: object.kind() == ObjectKind::Executable,
            build_id: build_id.map(<[u8]>::to_vec),
            functions,
            objects,
            imports,
            segments,
            sections,
            dynamic,
        })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file is linked to a fixed address (`ET_EXEC`).
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The names and addresses of the functions that were wanted.
    pub fn functions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.functions
            .iter()
            .map(|(name, address)| (name.as_str(), *address))
    }

    /// Whether the file uses a function of this name that another provides.
    pub fn imports(&self, name: &str) -> bool {
        self.imports.contains(name)
    }

    /// Addresses of a section that is loaded.
    pub fn section(&self, name: &str) -> Option<Range<u64>> {
        self.sections.get(name).cloned()
    }

    /// Whether sections are described: they need not be, in a program that only runs.
    pub fn has_sections(&self) -> bool {
        !self.sections.is_empty()
    }

    /// Addresses of everything that the file holds.
    pub fn loaded(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments.iter().map(Segment::range)
    }

    /// Addresses of the code that the file holds.
    pub fn executable(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments
            .iter()
            .filter(|segment| segment.executable)
            .map(Segment::range)
    }

    /// Addresses of what can only be read, code among it: strings are there.
    pub fn readable(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments
            .iter()
            .filter(|segment| !segment.writable)
            .map(Segment::range)
    }

    /// Reads what lies at an address.
    ///
    /// # Errors
    ///
    /// It is not in the file, or the file cannot be read.
    pub fn read_exact(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.range().contains(&address))
            .ok_or_else(|| io::Error::other("nothing at this address"))?;
        let within = address - segment.address;
        if segment.bytes - within < buffer.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, segment.offset + within)
    }

    /// Puts the addresses into what lies at an address that the dynamic linker puts there, as if the file
    /// were loaded where it is linked (`R_X86_64_RELATIVE` and the like with an addend).
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn relocate(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.relative_relocations(|place, addend| {
            let at = place
                .checked_sub(address)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(word) = at.and_then(|at| bytes.get_mut(at..at.checked_add(8)?)) {
                word.copy_from_slice(&addend.to_le_bytes());
            }
        })
    }

    /// Where a word is an address, once the file is loaded where it is linked.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn places_of(&self, value: u64) -> io::Result<Vec<u64>> {
        let word = value.to_le_bytes();
        let mut places: Vec<u64> = scan::places(self, &[&word], 8)?
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        self.relative_relocations(|place, addend| {
            if addend == value {
                places.push(place);
            }
        })?;
        Ok(places)
    }

    /// Hands over place and addend of each relocation that is relative to where the file is loaded.
    fn relative_relocations(&self, mut take: impl FnMut(u64, u64)) -> io::Result<()> {
        const ENTRY: usize = 24;
        const PIECE: usize = ENTRY << 14;
        let Some(table) = self.relocations()? else {
            return Ok(());
        };
        if table.end - table.start > TABLES {
            return Err(io::Error::other("its table of relocations is too large"));
        }
        let kind = match self.architecture {
            Architecture::X86_64 => R_X86_64_RELATIVE,
            Architecture::Aarch64 => R_AARCH64_RELATIVE,
            _ => return Ok(()),
        };
        let mut buffer = vec![0; PIECE];
        let mut at = table.start;
        while at < table.end {
            let length = usize::try_from(table.end - at).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..length];
            self.read_exact(at, piece)?;
            for entry in words(piece).as_chunks().0 {
                let [place, info, addend] = *entry;
                // The other half is a symbol: there is none.
                if info == u64::from(kind) {
                    take(place, addend);
                }
            }
            at += length as u64;
        }
        Ok(())
    }

    /// Addresses of the relocations with addends.
    fn relocations(&self) -> io::Result<Option<Range<u64>>> {
        let Some(dynamic) = &self.dynamic else {
            return Ok(None);
        };
        const LONGEST: u64 = 64 << 10;
        let length = (dynamic.end - dynamic.start).min(LONGEST);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.read_exact(dynamic.start, &mut bytes)?;
        let (mut start, mut size) = (None, None);
        for [tag, value] in words(&bytes).as_chunks().0 {
            match u32::try_from(*tag) {
                Ok(DT_NULL) => break,
                Ok(DT_RELA) => start = Some(*value),
                Ok(DT_RELASZ) => size = Some(*value),
                _ => {}
            }
        }
        Ok(start
            .zip(size)
            .and_then(|(start, size)| Some(start..start.checked_add(size)?)))
    }

    /// The functions by what unwinders use (`.eh_frame_hdr`; Linux Standard Base 5.0, 10.6.2). Empty if the
    /// file has no such table.
    pub fn unwind_table(&self) -> UnwindTable {
        self.try_unwind_table().unwrap_or_default()
    }

    fn try_unwind_table(&self) -> Option<UnwindTable> {
        /// Version, and the encodings of the count and the table: `DW_EH_PE_udata4`, `DW_EH_PE_datarel |
        /// DW_EH_PE_sdata4`.
        const KNOWN: [u8; 3] = [1, 0x03, 0x3b];
        let section = self.section(".eh_frame_hdr")?;
        let mut head = [0; 12];
        self.read_exact(section.start, &mut head).ok()?;
        let [version, _, count_encoding, table_encoding, ..] = head;
        if [version, count_encoding, table_encoding] != KNOWN {
            return None;
        }
        let count = u32::from_le_bytes(head[8..].try_into().ok()?);
        if count > FUNCTIONS {
            return None;
        }
        let mut table = vec![0; usize::try_from(count).ok()? * 8];
        self.read_exact(section.start + 12, &mut table).ok()?;
        let mut entries: Vec<(u64, u64)> = table
            .chunks_exact(8)
            .map(|entry| {
                let address = |at: usize| {
                    let word = [entry[at], entry[at + 1], entry[at + 2], entry[at + 3]];
                    section
                        .start
                        .wrapping_add_signed(i64::from(i32::from_le_bytes(word)))
                };
                (address(0), address(4))
            })
            .collect();
        entries.sort_unstable();
        Some(UnwindTable { entries })
    }

    /// The processor that the code is for.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// What the linker wrote to tell builds apart, if it did (`NT_GNU_BUILD_ID`).
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// Address of a function's first instruction, as linked.
    pub fn function(&self, name: &str) -> Option<u64> {
        let address = self.functions.get(name).copied()?;
        self.file_offset(address).map(|_| address)
    }

    /// Address of a variable, as linked.
    pub fn object(&self, name: &str) -> Option<u64> {
        self.objects.get(name).copied()
    }

    /// Where in the file an address of the code lies.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.code_segment(address)?;
        Some(segment.offset + (address - segment.address))
    }

    /// Where in the file lies what can be written at an address.
    pub fn data_offset(&self, address: u64) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.writable && segment.range().contains(&address))?;
        Some(segment.offset + (address - segment.address))
    }

    /// Up to `limit` bytes of code from an address on.
    ///
    /// # Errors
    ///
    /// There is no code at the address, or the file cannot be read.
    pub fn code(&self, address: u64, limit: usize) -> io::Result<Vec<u8>> {
        let segment = self
            .code_segment(address)
            .ok_or_else(|| io::Error::other("no code at this address"))?;
        let within = address - segment.address;
        let bytes = usize::try_from(segment.bytes - within)
            .unwrap_or(limit)
            .min(limit);
        let mut code = vec![0; bytes];
        self.file
            .read_exact_at(&mut code, segment.offset + within)?;
        Ok(code)
    }

    /// Where the code begins that an address is in, if it is in any.
    pub fn code_start(&self, address: u64) -> Option<u64> {
        Some(self.code_segment(address)?.address)
    }

    /// Whether there is code at an address.
    pub fn is_code(&self, address: u64) -> bool {
        self.code_segment(address).is_some()
    }

    fn code_segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| {
            segment.executable
                && address
                    .checked_sub(segment.address)
                    .is_some_and(|within| within < segment.bytes)
        })
    }
}

/// Words of 8 bytes.
fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

fn object_error(text: &'static str) -> object::Error {
    object::File::parse(text.as_bytes())
        .err()
        .unwrap_or_else(|| unreachable!("{text} is no object file"))
}
