# SegFormer-B0 on ADE20K with mmseg's recipe and ten prototypes per class.
_base_ = __import__("mmseg").__path__[0] + (
    "/.mim/configs/segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
)
custom_imports = dict(imports=["protoseg.models"])

model = dict(
    decode_head=dict(
        _delete_=True,
        type="PrototypeHead",
        num_prototypes=10,
        # The head of the recipe without its classifier. L_CE is a mean over labelled pixels.
        decode_head=dict(
            _base_.model.decode_head,
            loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
        ),
    )
)
