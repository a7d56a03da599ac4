//! What is in a core dump, as far as it helps to see at once: modules, stacks and memories.
//!
//! The format is that of the tool conventions, `Coredump.md`; wasmgdb and other tools read the rest.

use serde_json::{Value, json};
use wasmparser::{
    BinaryReader, BinaryReaderError, CoreDumpModulesSection, CoreDumpSection, CoreDumpStackSection,
    CustomSectionReader, Parser, Payload,
};

use super::show::size;

/// Bytes of a page of a memory that says nothing else (WebAssembly core specification, 4.2.8).
const PAGE_BYTES: u64 = 64 << 10;

/// What a core dump holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CoreDump {
    /// The program that trapped.
    pub(crate) program: String,
    /// The modules that it was made of.
    pub(crate) modules: Vec<String>,
    /// Frames of each thread.
    pub(crate) threads: Vec<Thread>,
    /// Sizes of the memories, in bytes.
    pub(crate) memories: Vec<u64>,
}

/// One thread of a core dump.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) frames: Vec<Frame>,
}

/// One frame of a thread, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) instance: u32,
    pub(crate) function: u32,
    /// From the beginning of the function, in bytes.
    pub(crate) offset: u32,
}

/// Why a file cannot be read as a core dump.
#[derive(Debug, thiserror::Error)]
#[error("read core dump")]
pub(crate) struct CoreDumpError(#[from] BinaryReaderError);

impl CoreDump {
    /// Reads a core dump.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, CoreDumpError> {
        let mut dump = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::CustomSection(section) => dump.take(&section)?,
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        let memory = memory?;
                        let page = memory.page_size_log2.map_or(PAGE_BYTES, |log2| 1 << log2.min(32));
                        dump.memories.push(memory.initial.saturating_mul(page));
                    }
                }
                _ => {}
            }
        }
        Ok(dump)
    }

    fn take(&mut self, section: &CustomSectionReader<'_>) -> Result<(), CoreDumpError> {
        let reader = || BinaryReader::new(section.data(), section.data_offset());
        match section.name() {
            "core" => self.program = CoreDumpSection::new(reader())?.name.to_owned(),
            "coremodules" => {
                let modules = CoreDumpModulesSection::new(reader())?.modules;
                self.modules = modules.into_iter().map(str::to_owned).collect();
            }
            "corestack" => {
                let stack = CoreDumpStackSection::new(reader())?;
                let frame = |frame: &wasmparser::CoreDumpStackFrame| Frame {
                    instance: frame.instanceidx,
                    function: frame.funcidx,
                    offset: frame.codeoffset,
                };
                let frames = stack.frames.iter().map(frame).collect();
                self.threads.push(Thread { name: stack.name.to_owned(), frames });
            }
            _ => {}
        }
        Ok(())
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let plural = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let frames = self.threads.iter().map(|thread| thread.frames.len()).sum();
        let memories = self.memories.iter().map(|bytes| size(*bytes)).collect::<Vec<_>>().join(", ");
        let memories =
            if memories.is_empty() { "no memory".to_owned() } else { format!("memory {memories}") };
        format!(
            "{}, {}, {}, {memories}",
            plural(self.modules.len(), "module"),
            plural(self.threads.len(), "thread"),
            plural(frames, "frame"),
        )
    }

    /// All of it for programs.
    pub(crate) fn document(&self) -> Value {
        let frame = |frame: &Frame| json!({ "instance": frame.instance, "function": frame.function, "offset": frame.offset });
        let thread = |thread: &Thread| json!({ "name": thread.name, "frames": thread.frames.iter().map(frame).collect::<Vec<_>>() });
        json!({
            "program": self.program,
            "modules": self.modules,
            "threads": self.threads.iter().map(thread).collect::<Vec<_>>(),
            "memories_bytes": self.memories,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A custom section of this name and content.
    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        let mut body = vec![u8::try_from(name.len()).unwrap()];
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(content);
        section(0, &body)
    }

    fn section(id: u8, body: &[u8]) -> Vec<u8> {
        [&[id, u8::try_from(body.len()).unwrap()], body].concat()
    }

    fn dump() -> Vec<u8> {
        let frame = |function: u8| [&[0, 2, function, 7], &[0, 0][..]].concat();
        let stack = [&[0, 4][..], b"main", &[2], &frame(42), &frame(43)].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            custom("core", b"\0\x06x.wasm"),
            custom("coremodules", b"\x02\0\x01a\0\x01b"),
            section(5, &[1, 0, 17]),
            custom("corestack", &stack),
        ]
        .concat()
    }

    #[test]
    fn a_core_dump_is_read() {
        let read = CoreDump::read(&dump()).unwrap();
        let frame = |function| Frame { instance: 2, function, offset: 7 };
        let expect = CoreDump {
            program: "x.wasm".to_owned(),
            modules: vec!["a".to_owned(), "b".to_owned()],
            threads: vec![Thread { name: "main".to_owned(), frames: vec![frame(42), frame(43)] }],
            memories: vec![17 << 16],
        };
        assert_eq!(read, expect);
        assert_eq!(read.line(), "2 modules, 1 thread, 2 frames, memory 1.1 MiB");
        assert_eq!(read.document()["threads"][0]["frames"][1]["function"], 43);
    }

    #[test]
    fn what_is_cut_or_no_core_dump_is_an_error_or_empty() {
        assert!(CoreDump::read(b"hello").is_err());
        let whole = dump();
        assert!(CoreDump::read(&whole[..whole.len() - 3]).is_err());
        let none = CoreDump::read(b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(none.line(), "0 modules, 0 threads, 0 frames, no memory");
    }
}
