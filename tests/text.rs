//! Tokenizer and chat template through the public interface.
use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::text::{ChatTemplate, Message, RenderOptions, Tokenizer};

#[test]
fn demo_model_prompts_and_answers() {
    let file = Gguf::open("models/demo-q4_k_m.gguf").unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = ChatTemplate::from_metadata(file.metadata()).unwrap();
    let golden = std::fs::read_to_string("tests/golden/demo.json").unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    for case in golden["answers"].as_array().unwrap() {
        let ids = |key: &str| -> Vec<u32> {
            case[key].as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
        };
        let prompt = case["prompt"].as_str().unwrap();
        let rendered = template.render(&[Message::user(prompt)], &RenderOptions::default()).unwrap();
        assert_eq!(tokenizer.encode_prompt(&rendered).unwrap(), ids("prompt_tokens"), "{prompt}");
        assert_eq!(tokenizer.decode(&ids("answer_tokens")).unwrap(), case["answer"].as_str().unwrap());
    }
    assert_eq!(tokenizer.stop_ids(), [1501, 1503]);
}
