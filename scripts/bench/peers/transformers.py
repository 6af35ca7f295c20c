"""Hugging Face transformers as a benchmark's peer: the same weights, from a fairseq model in memory."""

import torch
from fairseq.models.bart import BARTModel

from .shapes import hide_broken_torchaudio, positions_of, shape_of

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new"}


class Transformers:
    """Hugging Face transformers: BART and Marian for models with an encoder, GPT-2 for language models."""

    in_torch = True

    def __init__(self, task, model, device):
        hide_broken_torchaudio()
        import transformers

        self.version, self.words = transformers.__version__, task.source_dictionary
        self.prompts = not hasattr(model, "encoder")
        words, dtype = self.words, next(model.parameters()).dtype
        tokens = {"bos_token_id": words.eos(), "eos_token_id": words.eos(), "pad_token_id": words.pad()}
        build = self._gpt2 if self.prompts else self._bart
        self.model = build(transformers, model, tokens).to(device, dtype).eval()
        if not self.prompts:
            tokens["decoder_start_token_id"] = words.eos()
        self.tokens, self.config = tokens, transformers.GenerationConfig

    @staticmethod
    def _bart(transformers, model, tokens):
        layers, heads, pre_norm, activation = shape_of(model)
        encoder, decoder = model.encoder, model.decoder
        if pre_norm or activation not in ACTIVATIONS:
            raise ValueError(
                f"normalisation first: {pre_norm}, activation {activation}: neither BART nor Marian has it"
            )
        if encoder.embed_tokens is not decoder.embed_tokens:
            raise ValueError("the embeddings of encoder and decoder are not shared, as those of BART and Marian are")
        config = {
            "vocab_size": encoder.embed_tokens.num_embeddings,
            "d_model": encoder.embed_tokens.embedding_dim,
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": encoder.layers[0].fc1.out_features,
            "decoder_ffn_dim": decoder.layers[0].fc1.out_features,
            "activation_function": ACTIVATIONS[activation],
            "scale_embedding": encoder.embed_scale != 1.0,
            "max_position_embeddings": min(len(positions_of(encoder)), len(positions_of(decoder))),
            "decoder_start_token_id": tokens["eos_token_id"],
            "forced_eos_token_id": None,
            **tokens,
        }
        bart = isinstance(model, BARTModel)
        kind = "Bart" if bart else "Marian"
        if (encoder.layernorm_embedding is not None) != bart:
            raise ValueError(f"layernorm_embedding is not {bart}, as {kind}'s is")
        family = {"Bart": transformers.BartForConditionalGeneration, "Marian": transformers.MarianMTModel}[kind]
        ours = family(getattr(transformers, f"{kind}Config")(**config))
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        state["model.shared.weight"] = state["lm_head.weight"] = encoder.embed_tokens.weight
        for name, part in (("encoder", encoder), ("decoder", decoder)):
            rows = positions_of(part)[: config["max_position_embeddings"]]
            unused = rows.new_zeros(2 if bart else 0, rows.size(1))  # BART numbers positions from 2
            state[f"model.{name}.embed_positions.weight"] = torch.cat((unused, rows))
        return _filled(ours, state, zero="final_logits_bias")

    @staticmethod
    def _gpt2(transformers, model, tokens):
        layers, heads, pre_norm, activation = shape_of(model)
        decoder = model.decoder
        if not pre_norm or activation not in ACTIVATIONS or decoder.layer_norm is None:
            raise ValueError(f"normalisation first: {pre_norm}, activation {activation}: not GPT-2's")
        if decoder.layernorm_embedding is not None or decoder.project_in_dim is not None:
            raise ValueError("GPT-2 has no layernorm_embedding and no projection of embeddings")
        config = {
            "vocab_size": decoder.embed_tokens.num_embeddings,
            "n_embd": decoder.embed_tokens.embedding_dim,
            "n_layer": layers[0],
            "n_head": heads,
            "n_inner": decoder.layers[0].fc1.out_features,
            "n_positions": len(positions_of(decoder)),
            "activation_function": ACTIVATIONS[activation],
            "tie_word_embeddings": False,  # fairseq scales those of the input
            **tokens,
        }
        state = {
            "transformer.wte.weight": decoder.embed_tokens.weight * decoder.embed_scale,
            "transformer.wpe.weight": positions_of(decoder),
            "lm_head.weight": decoder.output_projection.weight,
        }
        names = {"self_attn_layer_norm": "ln_1", "final_layer_norm": "ln_2"}
        linear = {"self_attn.out_proj": "attn.c_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
        for kind in ("weight", "bias"):
            state[f"transformer.ln_f.{kind}"] = getattr(decoder.layer_norm, kind)
            for i, layer in enumerate(decoder.layers):
                here = f"transformer.h.{i}"
                attention = layer.self_attn
                fused = torch.cat([getattr(p, kind) for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
                state[f"{here}.attn.c_attn.{kind}"] = fused.t()
                for ours, theirs in names.items():
                    state[f"{here}.{theirs}.{kind}"] = getattr(layer.get_submodule(ours), kind)
                for ours, theirs in linear.items():
                    state[f"{here}.{theirs}.{kind}"] = getattr(layer.get_submodule(ours), kind).t()
        return _filled(transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)), state)

    def inputs(self, sample):
        tokens = sample["net_input"]["src_tokens"]
        mask = tokens.ne(self.words.pad())
        if self.prompts:  # the start of a sentence, and padding on the left
            rows = [[self.words.eos(), *row[keep].tolist()] for row, keep in zip(tokens, mask)]
        else:
            rows = [row[keep].tolist() for row, keep in zip(tokens, mask)]
        longest = max(map(len, rows))
        padded = torch.full((len(rows), longest), self.words.pad(), device=tokens.device)
        for i, row in enumerate(rows):
            where = slice(longest - len(row), None) if self.prompts else slice(len(row))
            padded[i, where] = torch.tensor(row, device=tokens.device)
        return {"input_ids": padded, "attention_mask": padded.ne(self.words.pad()).long()}

    @torch.no_grad()
    def generate(self, inputs, generation, tokens):
        config = self.config(
            num_beams=generation.beam,
            length_penalty=generation.lenpen,
            no_repeat_ngram_size=generation.no_repeat_ngram_size,
            max_new_tokens=tokens,
            min_new_tokens=min(tokens, generation.min_len),
            do_sample=False,
            **self.tokens,
        )
        return self.model.generate(**inputs, generation_config=config)

    def hypotheses(self, inputs, outputs):
        start = inputs["input_ids"].size(1) if self.prompts else 1
        ends = (self.words.eos(), self.words.pad())
        return [[token for token in row if token not in ends] for row in outputs[:, start:].tolist()]


def _filled(model, state, zero=None):
    """``model`` with these weights, all of them and no others; its buffer ``zero`` is zero as it was built."""
    model.load_state_dict(
        {name: tensor.detach() for name, tensor in state.items() if name in model.state_dict()}, strict=False
    )
    missing = [name for name in model.state_dict() if name not in state and name != zero]
    if missing:
        raise ValueError(f"fairseq's model has no {', '.join(missing[:5])}")
    return model
