//! `#[bean]`: a function that makes what the application injects, and the definition that stands
//! beside it. The function itself is given back unchanged. Not here: what its return type means
//! (that is found by type, in `mq-core`), when it is called.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Error, ExprPath, FnArg, ItemFn, PatType, Result, ReturnType, Signature, Type};

use crate::attr::{self, Args, Mistakes};
use crate::{component, listener};

/// The arguments of one `#[bean(...)]`.
struct Declared {
    qualifier: TokenStream,
    destroy: Option<ExprPath>,
    phase: i32,
}

impl Declared {
    fn parse(tokens: TokenStream) -> Result<Self> {
        const KNOWN: &[&str] = &["qualifier", "destroy", "phase"];
        let args = (|input: ParseStream<'_>| Args::parse(input, KNOWN)).parse2(tokens)?;
        let mut mistakes = Mistakes::default();
        let qualifier = mistakes.take(args.path("qualifier", "Marker")).flatten();
        let destroy = mistakes.take(args.path("destroy", "Pool::close")).flatten();
        let phase = mistakes.take(args.number("phase")).unwrap_or_default();
        mistakes.finish()?;
        let qualifier = qualifier.map_or_else(|| quote!(()), ToTokens::to_token_stream);
        Ok(Declared { qualifier, destroy: destroy.cloned(), phase })
    }
}

/// A function with its definition beside it.
pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    let checked = syn::parse2::<ItemFn>(item.clone())
        .map_err(|_| {
            let text = "`#[bean]` stands on a function that returns what is to be injected; a type \
                        of your own is a `#[component]`";
            Error::new(Span::call_site(), text)
        })
        .and_then(|function| factory(arguments, &function));
    match checked {
        Ok(definition) => quote! { #item #definition },
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #item #error }
        }
    }
}

fn factory(arguments: TokenStream, function: &ItemFn) -> Result<TokenStream> {
    let signature = &function.sig;
    let output = check_signature(signature)?;
    let declared = Declared::parse(arguments)?;
    let name = &signature.ident;
    let (visibility, hidden) = (&function.vis, listener::hidden_name(name));
    let conditions = attr::conditions(&function.attrs);
    let definition = definition(&declared, signature, output);
    Ok(quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[allow(dead_code, non_upper_case_globals, reason = "named after the function")]
        #visibility const #hidden: &'static ::common_mq::__private::BeanDef = {
            use ::common_mq::__private as __mq;
            #[allow(unused_imports, reason = "which of them is used depends on the return type")]
            use __mq::{Infallible as _, Owned as _};
            #definition
            __mq::register!(__mq::Definition::Bean(&__MQ_DEFINITION));
            &__MQ_DEFINITION
        };
    })
}

/// The type that the function returns, if all is well.
fn check_signature(signature: &Signature) -> Result<&Type> {
    let mut mistakes = Mistakes::default();
    if !signature.generics.params.is_empty() {
        let text = "a `#[bean]` cannot be generic; write one function for each type";
        mistakes.add(&signature.generics, text);
    }
    if let Some(receiver) = signature.receiver() {
        let text = "a `#[bean]` is a free function; what it needs is a parameter: `Bean<T>`, \
                    `Ext<T>`, `Cfg<T>` or `Mq`";
        mistakes.add(receiver, text);
    }
    for PatType { ty, .. } in parameters(signature) {
        if let Type::Reference(reference) = &**ty {
            mistakes.add(reference, "a `#[bean]` takes its parameters by value; remove the `&`");
        }
    }
    match &signature.output {
        ReturnType::Type(_, ty) => {
            if let Type::ImplTrait(implied) = &**ty {
                let text = "a `#[bean]` names what it returns: a type, or `Arc<dyn Trait>`";
                mistakes.add(implied, text);
            }
            mistakes.finish().map(|()| &**ty)
        }
        ReturnType::Default => {
            let text = "a `#[bean]` returns what is to be injected: `-> T` or `-> Result<T, E>`";
            mistakes.add(&signature.ident, text);
            Err(mistakes.finish().err().unwrap_or_else(|| Error::new(Span::call_site(), text)))
        }
    }
}

fn parameters(signature: &Signature) -> impl Iterator<Item = &PatType> {
    signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(argument),
        FnArg::Receiver(_) => None,
    })
}

/// `static __MQ_DEFINITION`.
fn definition(declared: &Declared, signature: &Signature, output: &Type) -> TokenStream {
    let Declared { qualifier, phase, .. } = declared;
    let name = &signature.ident;
    let (text, place) = (name.to_string(), listener::place(name));
    let needs = parameters(signature).map(|parameter| {
        component::need(&parameter.pat.to_token_stream().to_string(), &parameter.ty)
    });
    let build = build(signature, output);
    let methods = methods(declared, output);
    quote! {
        static __MQ_DEFINITION: __mq::BeanDef = __mq::BeanDef {
            kind: __mq::Kind::Factory,
            name: #text,
            key: || __mq::returned::<#output>().made().bean().key::<#qualifier>(),
            provides: ::core::option::Option::None,
            needs: &[#(#needs),*],
            build: ::core::option::Option::Some(#build),
            methods: || #methods,
            phase: #phase,
            place: #place,
        };
    }
}

/// Takes each parameter out of the scope, then calls the function.
fn build(signature: &Signature, output: &Type) -> TokenStream {
    let types: Vec<&Type> = parameters(signature).map(|parameter| &*parameter.ty).collect();
    let names: Vec<Ident> =
        (0..types.len()).map(|at| format_ident!("__mq_argument_{at}")).collect();
    let takes = types.iter().zip(&names).map(|(ty, name)| {
        quote_spanned! {ty.span()=>
            let #name = <#ty as ::common_mq::__private::Inject>::inject(__mq_scope)?;
        }
    });
    let function = &signature.ident;
    let wait = signature.asyncness.map(|_| quote!(.await));
    let instance = quote_spanned! {output.span()=>
        let __mq_made = __mq::returned::<#output>().value(__mq_returned)?;
        let __mq_instance =
            __mq::Instance::new(__mq::returned::<#output>().made().share(__mq_made));
    };
    let boxed = quote_spanned!(function.span()=> ::std::boxed::Box::pin);
    quote! {
        |__mq_scope| #boxed(async move {
            let _ = __mq_scope;
            #(#takes)*
            let __mq_returned = #function(#(#names),*) #wait;
            #instance
            ::core::result::Result::Ok(__mq_instance)
        })
    }
}

/// The hook of `destroy = path`.
fn methods(declared: &Declared, output: &Type) -> TokenStream {
    let Declared { qualifier, destroy, .. } = declared;
    let Some(destroy) = destroy else { return quote!(__mq::NO_METHODS) };
    let call = quote_spanned! {destroy.span()=>
        let __mq_output = #destroy(&*__mq_value).await;
        ::common_mq::__private::IntoHookResult::into_hook_result(__mq_output)
    };
    quote! {
        &__mq::Methods {
            listeners: &[],
            post_construct: &[],
            pre_destroy: &[__mq::Hook {
                name: "destroy",
                call: |__mq_scope| ::std::boxed::Box::pin(async move {
                    let __mq_bean = __mq::returned::<#output>().made().bean();
                    let __mq_value = __mq_bean.get::<#qualifier>(__mq_scope);
                    #call
                }),
            }],
        }
    }
}
