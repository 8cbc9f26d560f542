"""The published graph a second time, from its description alone (plain torch, float64, nothing of bilingual_embed), and folders in the published layouts"""
import json, math
from pathlib import Path
import torch
from safetensors.torch import save_file

SIZES = dict( # the four kinds at a size for tests; BIG holds the true ones
    de=dict(vocab_size=320, hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=80),
    es=dict(vocab_size=320, hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=80),
    en=dict(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=8, intermediate_size=64),
    code=dict(vocab_size=320, hidden_size=48, num_hidden_layers=2, num_attention_heads=12, intermediate_size=80))
BASE = dict(vocab_size=61056, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
SMALL = dict(vocab_size=30528, hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
BIG = {'de': ('de', BASE, 160_813_824), 'es': ('es', BASE, 160_850_688), 'base-en': ('en', BASE | dict(vocab_size=30528), 137_368_320),
       'small-en': ('en', SMALL, 32_690_688), 'code': ('code', BASE, 160_869_120)}   # layout, sizes, parameters; -code's by arithmetic, the others' are published
NAMES = dict(de='jina-bert-implementation', en='jina-bert-implementation', es='jina-bert-v2-qk-devlin-norm-1e-2', code='jina-bert-v2-qk-post-norm')

def names(layout, sizes): # name -> shape of every weight in the file
    V,D,L,_,I = sizes.values()
    out = {}
    def norm(n): out[n+'.weight'] = out[n+'.bias'] = (D,)
    def dense(n, o, i): out[n+'.weight'],out[n+'.bias'] = (o,i),(o,)
    out |= {'embeddings.word_embeddings.weight': (V,D), 'embeddings.token_type_embeddings.weight': (2,D)}
    norm('embeddings.LayerNorm')
    for i in range(L):
        at = f'encoder.layer.{i}.'
        for n in ('query','key','value'): dense(at+'attention.self.'+n, D, D)
        if layout in ('es','code'):
            norm(at+'attention.self.layer_norm_q')
            norm(at+'attention.self.layer_norm_k')
        dense(at+'attention.output.dense', D, D)
        norm(at+'attention.output.LayerNorm')
        if layout == 'code':
            out[at+'mlp.up_gated_layer.weight'] = (2*I,D)
            dense(at+'mlp.down_layer', D, I)
            norm(at+'layer_norm_1')
            norm(at+'layer_norm_2')
        else:
            out[at+'mlp.gated_layers.weight'] = (2*I,D)
            dense(at+'mlp.wo', D, I)
            norm(at+'mlp.layernorm')
    dense('pooler.dense', D, D)
    return out

def weights(layout, sizes, dtype=torch.float32, seed=0): # random, norms and biases too, so that none can hide
    g = torch.Generator().manual_seed(seed)
    scale = lambda n, s: 1. if 'embeddings.weight' in n else s[-1]**-.5 if len(s) == 2 else .3
    is_norm = lambda n: n.endswith('.weight') and ('orm' in n.split('.')[-2])
    return {n: (torch.randn(s, generator=g)*scale(n, s) + is_norm(n)).to(dtype) for n,s in names(layout, sizes).items()}

def config(layout, sizes, dtype='float16'): # config.json as published: model type "bert", code elsewhere, padding id 0, not a word on the layout
    repo = f'jinaai/{NAMES[layout]}'
    return dict(_name_or_path=repo, model_type='bert', architectures=['JinaBertForMaskedLM'], **sizes, attention_probs_dropout_prob=.1 if layout == 'de' else 0., hidden_dropout_prob=.1,
                classifier_dropout=None, emb_pooler='mean', feed_forward_type='geglu', gradient_checkpointing=False, hidden_act='gelu', initializer_range=.02,
                layer_norm_eps=1e-12, max_position_embeddings=8192, pad_token_id=0, position_embedding_type='alibi', torch_dtype=dtype, transformers_version='4.31.0', type_vocab_size=2,
                use_cache=True, auto_map={c: f'{repo}--{f}' for c,f in dict(AutoConfig='configuration_bert.JinaBertConfig', AutoModel='modeling_bert.JinaBertModel',
                AutoModelForMaskedLM='modeling_bert.JinaBertForMaskedLM').items()}) | ({} if layout == 'en' else dict(attn_implementation='torch'))

def slopes(H): # of the published ALiBi: powers of 2^(-8/n) for n the power of two below, then every other one of 2n
    n = 1
    while 2*n <= H: n *= 2
    return [2.**(-8*(i+1)/n) for i in range(n)] + [2.**(-8*(2*i+1)/(2*n)) for i in range(H-n)]

def reference(w, layout, sizes, ids): # (T,) ids of one text -> (T,D) float64
    w = {k: v.double() for k,v in w.items()}
    _,D,L,H,I = sizes.values()
    T,d = len(ids),D//H
    def norm(x, n):
        x = x-x.mean(-1, keepdim=True)
        return x/torch.sqrt((x*x).mean(-1, keepdim=True)+1e-12)*w[n+'.weight']+w[n+'.bias']
    lin = lambda x, n: x@w[n+'.weight'].T+w[n+'.bias']
    gelu = lambda x: x/2*torch.special.erfc(-x/math.sqrt(2))
    pos = torch.arange(T, dtype=torch.float64)
    x = norm(w['embeddings.word_embeddings.weight'][ids]+w['embeddings.token_type_embeddings.weight'][0], 'embeddings.LayerNorm')
    for i in range(L):
        at = f'encoder.layer.{i}.'
        q,k,v = (lin(x, at+'attention.self.'+n) for n in ('query','key','value'))
        if layout in ('es','code'):
            q,k = norm(q, at+'attention.self.layer_norm_q'),norm(k, at+'attention.self.layer_norm_k')
        seen = torch.empty(T, D, dtype=torch.float64)
        for r in torch.arange(T).split(128):                                     # some queries at a time: less memory, same numbers
            far = (pos[r][:,None]-pos).abs()
            for h,m in enumerate(slopes(H)):
                s = slice(h*d, (h+1)*d)
                seen[r,s] = torch.softmax(q[r,s]@k[:,s].T/math.sqrt(d)-m*far, 1)@v[:,s]
        y = norm(lin(seen, at+'attention.output.dense')+x, at+'attention.output.LayerNorm')
        if layout == 'code':                        # the layer's input a second time, and a second norm; value half first, gate behind
            y = norm(y+x, at+'layer_norm_1')
            up = y@w[at+'mlp.up_gated_layer.weight'].T
            x = norm(lin(up[:,:I]*gelu(up[:,I:]), at+'mlp.down_layer')+y, at+'layer_norm_2')
        else:                                       # gate first
            up = y@w[at+'mlp.gated_layers.weight'].T
            x = norm(lin(gelu(up[:,:I])*up[:,I:], at+'mlp.wo')+y, at+'mlp.layernorm')
    return x

def folder(at, layout, tok=None, dtype=torch.float16, sizes=None, normalize=True, prefix=''): # -> path, weights
    at,sizes = Path(at),sizes or SIZES[layout]
    at.mkdir(parents=True)
    w = weights(layout, sizes, dtype)
    save_file({prefix+k: v for k,v in w.items()}, at/'model.safetensors', metadata=dict(format='pt'))
    write = lambda name, data: ((at/name).parent.mkdir(exist_ok=True), (at/name).write_text(json.dumps(data)))
    write('config.json', config(layout, sizes, str(dtype).removeprefix('torch.')))
    kinds = ['Transformer','Pooling'] + ['Normalize']*normalize
    write('modules.json', [dict(idx=i, name=str(i), path='' if i == 0 else f'{i}_{k}', type=f'sentence_transformers.models.{k}') for i,k in enumerate(kinds)])
    write('1_Pooling/config.json', dict(word_embedding_dimension=sizes['hidden_size'], pooling_mode_cls_token=False, pooling_mode_mean_tokens=True, pooling_mode_max_tokens=False, pooling_mode_mean_sqrt_len_tokens=False))
    write('sentence_bert_config.json', dict(max_seq_length=8192, do_lower_case=False, model_args=dict(trust_remote_code=True)))
    if tok is not None:
        tok.backend_tokenizer.save(str(at/'tokenizer.json'))
        bert = tok.cls_token == '[CLS]'
        write('tokenizer_config.json', dict(tokenizer_class='BertTokenizer', do_lower_case=True, cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', unk_token='[UNK]', mask_token='[MASK]', model_max_length=8192) if bert else
              dict(tokenizer_class='RobertaTokenizer', add_prefix_space=False, bos_token='<s>', cls_token='<s>', eos_token='</s>', sep_token='</s>', pad_token='<pad>', unk_token='<unk>', mask_token='<mask>', model_max_length=8192, trim_offsets=True))
        if not bert:
            model = json.loads(tok.backend_tokenizer.to_str())['model']
            write('vocab.json', model['vocab'])
            (at/'merges.txt').write_text('#version: 0.2\n'+'\n'.join(m if isinstance(m, str) else ' '.join(m) for m in model['merges'])+'\n', encoding='utf-8')
    return at, w
