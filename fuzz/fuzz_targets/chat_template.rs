//! Renders arbitrary templates with arbitrary conversations: `template NUL role content NUL role content …`, where a
//! role is one letter.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use ferrum_wgpu::{ChatTemplate, Message, RenderOptions};
use ferrum_wgpu_fuzz::check_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let template = match ChatTemplate::new(parts.next().unwrap_or_default(), "<s>", "</s>") {
        Ok(template) => template,
        Err(error) => return check_line(error),
    };
    let messages: Vec<Message> = parts
        .map(|part| match part.strip_prefix(['s', 'a']) {
            Some(content) if part.starts_with('s') => Message::system(content),
            Some(content) => Message::assistant(content),
            None => Message::user(part.strip_prefix('u').unwrap_or(part)),
        })
        .collect();
    let message_bytes: usize = messages.iter().map(|message| message.content.len() + 64).sum();
    let dated =
        RenderOptions::default().now(UNIX_EPOCH + Duration::from_secs(1_735_603_200));
    let silent = RenderOptions::default().add_generation_prompt(false).enable_thinking(false).now(None);
    for options in [dated, silent] {
        match template.render(&messages, &options) {
            Ok(rendered) => assert!(rendered.len() <= (16 << 20) + 64 * message_bytes, "{} bytes", rendered.len()),
            Err(error) => check_line(error),
        }
    }
});
