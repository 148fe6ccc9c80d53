//! Serves eight chats at once, each by a thread and a session of its own, over one engine:
//! `cargo run --release --example serve_chats -- models/demo-q4_k_m.gguf`.

use std::{error::Error, thread, time::Instant};

use ferrum_wgpu::{
    Adapter, ChatTemplate, Device, Engine, EngineOptions, GenerateOptions, Gguf, Message, Model, RenderOptions,
    SamplingOptions, Tokenizer,
};

/// Who talks, and what about.
const CHATS: [(&str, [&str; 3]); 8] = [
    ("Ada", ["My name is Ada.", "What is the capital of France?", "What is my name?"]),
    ("Ben", ["What is 7 + 5?", "What is 15 - 8?", "Which is larger, 12 or 27?"]),
    ("Cleo", ["What sound does a wolf make?", "Tell me a story about a mouse.", "Who are you?"]),
    ("Dan", ["Count from 3 to 9.", "Sort these numbers: 8, 2, 5.", "What is month number 9?"]),
    ("Eve", ["Hello!", "Which city is the capital of Japan?", "What is the opposite of early?"]),
    ("Finn", ["Spell the word kernel.", "Which day comes after Friday?", "What is 2 + 2?"]),
    ("Gil", ["Write a short story about an owl.", "Who are you?", "What is the capital of Italy?"]),
    ("Hal", ["Kyiv is the capital of which country?", "What is 9 + 9?", "Tell me a story about a fox."]),
];

type Failure = Box<dyn Error + Send + Sync>;

/// What all chats share.
struct Service {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    options: GenerateOptions,
}

impl Service {
    async fn new(path: &str) -> Result<Self, Failure> {
        let gguf = Gguf::open(path)?;
        let device = Device::new(&Adapter::find(None).await?).await?;
        println!("on {}", device.name());
        let model = Model::load(&device, &gguf, |_sent, _total| ()).await?;
        // All are computed at once, and share the room for tokens as they need it.
        let sequences = CHATS.len() as u32;
        let options = EngineOptions::default().sequences(sequences).kv_tokens(4096);
        let engine = Engine::new(&model, &options).await?;
        engine.warm_up().await?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let stop = tokenizer.stop_ids().to_vec();
        let options = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(200).stop(stop);
        Ok(Self { engine, tokenizer, template: ChatTemplate::from_metadata(gguf.metadata())?, options })
    }

    /// Has a conversation of several turns. Gives how many tokens were generated.
    async fn chat(&self, name: &str, questions: &[&str]) -> Result<u32, Failure> {
        let mut session = self.engine.session();
        let mut messages = Vec::new();
        let mut generated = 0;
        for question in questions {
            messages.push(Message::user(*question));
            let rendered = self.template.render(&messages, &RenderOptions::default())?;
            let prompt = self.tokenizer.encode_prompt(&rendered)?;
            // The session goes on from what it has; a template may have changed the end of that.
            let common = session.tokens().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
            let held = common.min(prompt.len() - 1);
            session.truncate(held as u32)?;
            let mut reply = session.generate(&prompt[held..], &self.options)?;
            let mut answer = Vec::new();
            while let Some(token) = reply.next().await? {
                answer.push(token);
            }
            let cached = held as u32 + reply.cached();
            let text = self.tokenizer.decode(&answer)?;
            generated += answer.len() as u32;
            println!("{name}: {question}\n  {text} ({} tokens of prompt, {cached} cached)", prompt.len());
            messages.push(Message::assistant(text));
        }
        Ok(generated)
    }
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: serve_chats MODEL")?;
    let service = pollster::block_on(Service::new(&path))?;
    let start = Instant::now();
    let tokens = thread::scope(|scope| {
        let chats = CHATS.map(|(name, questions)| {
            let service = &service;
            scope.spawn(move || pollster::block_on(service.chat(name, &questions)))
        });
        chats.into_iter().try_fold(0, |sum, chat| Ok::<_, Failure>(sum + chat.join().map_err(|_| "a panic")??))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{} chats: {tokens} tokens in {seconds:.2} s, {:.1} t/s", CHATS.len(), f64::from(tokens) / seconds);
    Ok(())
}
