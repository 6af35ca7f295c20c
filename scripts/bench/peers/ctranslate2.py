"""CTranslate2 as a benchmark's peer: the same weights, from a fairseq model in memory."""

import tempfile

import torch

from .shapes import hide_broken_torchaudio, shape_of


class CTranslate2:
    """https://github.com/OpenNMT/CTranslate2, through its own converter's functions for fairseq's modules."""

    in_torch = False  # whose memory PyTorch knows and limits

    def __init__(self, task, model, device):
        hide_broken_torchaudio()
        import ctranslate2
        from ctranslate2.converters import fairseq as converter
        from ctranslate2.specs import common_spec, transformer_spec

        self.version, self.words = ctranslate2.__version__, task.source_dictionary
        self.names = {part: _names(self.words, _types(getattr(model, part))) for part in _parts(model)}
        layers, heads, pre_norm, activation = shape_of(model)
        activations = common_spec.Activation
        kinds = {"relu": activations.RELU, "gelu": activations.GELU, "gelu_accurate": activations.GELUTanh}
        if activation not in kinds:
            raise ValueError(f"the activation {activation} is not known to be CTranslate2's")
        options = {
            "pre_norm": pre_norm,
            "activation": kinds[activation],
            "layernorm_embedding": model.decoder.layernorm_embedding is not None,
        }
        dtype = next(model.parameters()).dtype
        parts = {name: getattr(model, name).float().cpu() for name in _parts(model)}
        for part in parts.values():
            part.requires_grad_(False)
        self.prompts = "encoder" not in parts
        if self.prompts:
            final = model.decoder.layer_norm is not None
            specs = transformer_spec.TransformerDecoderModelSpec
            spec = specs.from_config(layers[0], heads, no_final_norm=not final, **options)
            converter.set_transformer_decoder(spec.decoder, parts["decoder"], with_encoder_attention=False)
            spec.register_vocabulary(self.names["decoder"])
            spec.config.bos_token = spec.config.eos_token
        else:
            spec = transformer_spec.TransformerSpec.from_config(tuple(layers), heads, **options)
            converter.set_transformer_encoder(spec.encoder, parts["encoder"])
            converter.set_transformer_decoder(spec.decoder, parts["decoder"])
            spec.register_source_vocabulary(self.names["encoder"])
            spec.register_target_vocabulary(self.names["decoder"])
            spec.config.decoder_start_token = spec.config.eos_token
            spec.config.add_source_eos = True
        spec.validate()
        engine = ctranslate2.Generator if self.prompts else ctranslate2.Translator
        with tempfile.TemporaryDirectory() as folder:
            spec.save(folder)
            compute = str(dtype).removeprefix("torch.")
            self.engine = engine(
                folder, device=device.type, compute_type=compute, intra_threads=torch.get_num_threads()
            )
        model.to(device, dtype)

    def inputs(self, sample):
        names = self.names["decoder" if self.prompts else "encoder"]
        rows = [row[row.ne(self.words.pad())].tolist() for row in sample["net_input"]["src_tokens"]]
        if self.prompts:
            return [["</s>", *(names[i] for i in row)] for row in rows]
        return [[names[i] for i in row[:-1]] for row in rows]

    def generate(self, inputs, generation, tokens):
        search = {
            "beam_size": generation.beam,
            "length_penalty": generation.lenpen,
            "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        }
        if self.prompts:
            lengths = {"max_length": tokens, "min_length": tokens, "include_prompt_in_result": False}
            return self.engine.generate_batch(inputs, **lengths, **search)
        lengths = {"max_decoding_length": tokens, "min_decoding_length": min(tokens, generation.min_len)}
        return self.engine.translate_batch(inputs, max_input_length=0, **lengths, **search)

    def hypotheses(self, inputs, outputs):
        best = [output.sequences[0] if self.prompts else output.hypotheses[0] for output in outputs]
        numbers = {name: i for i, name in enumerate(self.names["decoder"])}
        return [[numbers[name] for name in sequence] for sequence in best]


def _parts(model):
    return [name for name in ("encoder", "decoder") if hasattr(model, name)]


def _types(part):
    """How many types the embeddings of an encoder or decoder have: as many as its dictionary, or more."""
    return part.embed_tokens.num_embeddings


def _names(words, types):
    """A name for each type: a dictionary may have symbols twice, or fewer of them than the embeddings have rows."""
    special = {words.bos(): "<s>", words.pad(): "<blank>", words.eos(): "</s>", words.unk(): "<unk>"}
    return [special.get(i, f"t{i}") for i in range(types)]
