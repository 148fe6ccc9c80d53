//! The front door: conversations on the demo model, on the CPU.

use std::pin::{Pin, pin};

use ferrum_wgpu::{Chat, Device, EngineError, EngineOptions, Error, Message, SamplingOptions};
use pollster::block_on;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");

fn chat() -> Chat {
    let options = EngineOptions::default().context(256);
    let builder = Chat::builder().device(Device::cpu()).engine(options).sampling(SamplingOptions::greedy());
    block_on(builder.open(DEMO)).expect("a chat")
}

#[test]
fn replies_become_part_of_the_conversation() {
    let mut chat = chat();
    let answer = block_on(chat.say("What is the capital of France?").into_text()).expect("a reply");
    assert_eq!(answer, "The capital of France is Paris.");
    let expected = [Message::user("What is the capital of France?"), Message::assistant(answer)];
    assert_eq!(chat.messages(), expected);

    // The second turn continues the first one's KV cache, and gives what a fresh conversation gives.
    let second = block_on(chat.say("What is 7 + 5?").into_text()).expect("a reply");
    assert_eq!(chat.messages().len(), 4);
    chat.clear();
    assert!(chat.messages().is_empty());
    chat.set_messages(expected.to_vec());
    assert_eq!(block_on(chat.say("What is 7 + 5?").into_text()).expect("a reply"), second);
}

#[test]
fn a_dropped_reply_is_cancelled_and_its_text_stays() {
    let mut chat = chat();
    drop(chat.say("What is the capital of France?"));
    assert!(chat.messages().is_empty(), "a reply without text is removed with its question");

    let mut reply = chat.say("What is the capital of France?");
    let piece = block_on(reply.next()).expect("text").expect("text");
    let busy = block_on(chat.say("Hello!").next()).expect_err("one reply at a time");
    assert!(matches!(busy, Error::Engine(EngineError::Busy)), "{busy}");
    drop(reply);
    assert_eq!(chat.messages(), [Message::user("What is the capital of France?"), Message::assistant(piece)]);
}

#[test]
fn a_reply_is_a_stream_that_owns_what_it_needs() {
    let mut chat = chat();
    let reply = chat.say("What is the capital of France?");
    drop(chat);
    let text = std::thread::spawn(move || {
        let mut reply = pin!(reply);
        let mut text = String::new();
        let next = |stream: Pin<&mut _>| block_on(poll(stream));
        while let Some(piece) = next(reply.as_mut()) {
            text += &piece.expect("text");
        }
        text
    });
    assert_eq!(text.join().expect("a thread"), "The capital of France is Paris.");
}

async fn poll<S: futures_core::Stream>(mut stream: Pin<&mut S>) -> Option<S::Item> {
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

#[test]
fn replies_end_before_stop_strings_and_at_limits() {
    let builder = || Chat::builder().device(Device::cpu()).sampling(SamplingOptions::greedy());
    let ask = |chat: &mut Chat| block_on(chat.say("What is the capital of France?").into_text()).expect("a reply");
    let mut stopped = block_on(builder().stop([" Paris"]).open(DEMO)).expect("a chat");
    assert_eq!(ask(&mut stopped), "The capital of France is");
    let mut short = block_on(builder().max_tokens(2).open(DEMO)).expect("a chat");
    let text = ask(&mut short);
    assert!(!text.is_empty() && "The capital of France is".starts_with(&text), "{text}");
}
