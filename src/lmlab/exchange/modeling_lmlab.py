"""A model of the lab's as transformers has its own: what is written around the model's source.

Where the written file is loaded there is no lab: it knows torch and transformers alone. Here nobody
imports this; `exchange.own_file` reads it.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from lmlab.config.instantiate import instantiate

# What a config may name, by its `_target_`. The written file lists what this model is made of.
PARTS: dict[str, Any] = {}


class LabConfig(PretrainedConfig):
    """`model` is what the lab's config has there: a tree of classes and their arguments."""

    model_type = "lmlab"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        block_size: int | None = None,
        buffer_sizes: dict[str, list[int]] | None = None,
        end_of_text: dict[str, int] | None = None,
        **more: Any,
    ):
        """`block_size` is how many tokens the model reads at most; `buffer_sizes` are of buffers
        that grew with the text, such as tables of counts; `end_of_text` is the token behind each
        document, of the modules whose attention stays within one."""
        self.model, self.vocab_size, self.block_size = model, vocab_size, block_size
        self.buffer_sizes, self.end_of_text = buffer_sizes or {}, end_of_text or {}
        super().__init__(**more)


class LabForCausalLM(PreTrainedModel, GenerationMixin):
    """idx (B, T) -> logits (B, T, vocab_size), by the lab's own code.

    Nothing is cached: each new token is computed from all that the model reads before it.
    """

    config_class = LabConfig
    base_model_prefix = "model"

    def __init__(self, config: LabConfig):
        super().__init__(config)
        self.model = instantiate(
            config.model,
            PARTS.__getitem__,
            vocab_size=config.vocab_size,
            block_size=config.block_size,
        )
        for module in self.model.modules():
            module._non_persistent_buffers_set.clear()  # the file has every buffer
        for name, size in config.buffer_sizes.items():
            module_name, _, buffer_name = name.rpartition(".")
            module = self.model.get_submodule(module_name)
            buffer = getattr(module, buffer_name)
            if list(buffer.shape) != size:
                setattr(module, buffer_name, buffer.new_empty(size))
        for name, token in config.end_of_text.items():
            self.model.get_submodule(name).end_of_text = token
        # Weights that are one, such as a read-out that is the embedding: {second name: first name}.
        first_names: dict[int, str] = {}
        names = [(n, id(p)) for n, p in self.named_parameters(remove_duplicate=False)]
        self._tied_weights_keys = {
            name: first_names[one]
            for name, one in names
            if first_names.setdefault(one, name) != name
        }
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """The model has initialised itself."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **more: Any,
    ) -> Any:
        """As transformers has it: `labels` are input_ids again, -100 where nothing is learned."""
        if attention_mask is not None and (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
            raise ValueError("this model knows no padding before a text: give texts of one length")
        logits, loss = self.model(input_ids), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **more
            )
        output = CausalLMOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The last tokens, as many as the model reads; all, if it may read on without end."""
        reads = getattr(self.model, "sees", None) or self.config.block_size
        if not getattr(self.model, "endless", False):
            input_ids = input_ids[:, -reads:]
            attention_mask = None if attention_mask is None else attention_mask[:, -reads:]
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @property
    def device(self) -> torch.device:
        """A model that counts has buffers alone."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """That of the first weights that are no whole numbers."""
        tensors = chain(self.parameters(), self.buffers())
        floats = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
        return next(floats, torch.get_default_dtype())

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False
